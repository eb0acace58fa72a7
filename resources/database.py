"""PostgreSQL as a Dagster resource."""

import dagster as dg
from pydantic import Field, PrivateAttr

from mm_pipelines.warehouse.advisory_locks import run_lock
from mm_pipelines.warehouse.database import ANSWER_SECONDS, Database
from mm_pipelines.warehouse.lock_keeper import LockKeeper

TICK_ANSWER_SECONDS = 20.0
"""The longest wait of a sensor or schedule for a statement. Dagster gives up a tick after 60 s, but
its thread in the code server would go on waiting."""


class DatabaseResource(dg.ConfigurableResource):
    """The database with the schema ``mm``; the run closes its connections when it ends.

    While a run's process lives, it holds `run_lock`. The dead run sensor looks for runs without it,
    because Dagster does not monitor runs by default.
    """

    url: str = Field(repr=False, description="PostgreSQL address, from MM_DATABASE_URL")
    _answer_seconds: float = PrivateAttr(default=ANSWER_SECONDS)
    _database: Database | None = PrivateAttr(default=None)
    _keeper: LockKeeper | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Begin to hold the run's lock; a tick belongs to no run, and its waits are shorter."""
        self._answer_seconds = ANSWER_SECONDS if context.run else TICK_ANSWER_SECONDS
        if context.run:
            # In a thread, so that a server that is away does not fail the run here.
            self._keeper = LockKeeper(self.get(), run_lock(context.run.run_id))
            self._keeper.start()

    def get(self) -> Database:
        """Return the database; its first use connects."""
        if self._database is None:
            self._database = Database(self.url, answer_seconds=self._answer_seconds)
        return self._database

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close the connections."""
        if self._keeper is not None:
            self._keeper.release()
        if self._database is not None:
            self._database.dispose()
