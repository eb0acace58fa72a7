"""PostgreSQL as a Dagster resource."""

from contextlib import ExitStack

import dagster as dg
from pydantic import Field, PrivateAttr

from mm_pipelines.warehouse.database import ANSWER_SECONDS, Database

TICK_ANSWER_SECONDS = 20.0
"""The longest wait of a sensor or schedule for a statement. Dagster gives up a tick after 60 s, but
its thread in the code server would go on waiting."""


def run_lock(run_id: str) -> str:
    """The advisory lock that a run holds while its process lives."""
    return f"run:{run_id}"


class DatabaseResource(dg.ConfigurableResource):
    """The database with the schema ``mm``; the run closes its connections when it ends.

    A run holds `run_lock` from its first use of the database until it ends. If its process is
    killed, PostgreSQL releases the lock, and the sensors request the run's work again, even where
    Dagster does not monitor runs.
    """

    url: str = Field(repr=False, description="PostgreSQL address, from MM_DATABASE_URL")
    _answer_seconds: float = PrivateAttr(default=ANSWER_SECONDS)
    _database: Database | None = PrivateAttr(default=None)
    _run_id: str | None = PrivateAttr(default=None)
    _held: ExitStack = PrivateAttr(default_factory=ExitStack)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remember the run; the waits of a tick, which belongs to no run, are shorter."""
        self._run_id = context.run.run_id if context.run else None
        self._answer_seconds = ANSWER_SECONDS if context.run else TICK_ANSWER_SECONDS

    def get(self) -> Database:
        """Return the database; in a run, the first call connects."""
        if self._database is None:
            database = Database(self.url, answer_seconds=self._answer_seconds)
            if self._run_id is not None:
                self._held.enter_context(database.shared_lock(run_lock(self._run_id)))
            self._database = database
        return self._database

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close the connections."""
        self._held.close()
        if self._database is not None:
            self._database.dispose()
