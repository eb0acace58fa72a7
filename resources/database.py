"""PostgreSQL as a Dagster resource."""

import dagster as dg
from pydantic import Field, PrivateAttr

from mm_pipelines.warehouse.database import Database


class DatabaseResource(dg.ConfigurableResource):
    """The database with the schema ``mm``; the run closes its connections when it ends."""

    url: str = Field(repr=False, description="PostgreSQL address, from MM_DATABASE_URL")
    _database: Database | None = PrivateAttr(default=None)

    def get(self) -> Database:
        """Return the database; its first use connects."""
        if self._database is None:
            self._database = Database(self.url)
        return self._database

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close the connections."""
        if self._database is not None:
            self._database.dispose()
