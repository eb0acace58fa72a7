"""Opens the database for a command and starts the embedded server if needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.warehouse.database import Database


@contextlib.contextmanager
def open_database(environment: Environment) -> Iterator[Database]:
    """The database for one block of code.

    The embedded server is started if it does not run, and migrated. A database that
    MM_DATABASE_URL names is not migrated: `mm db upgrade` and `mm up` do that.
    """
    from mm_pipelines.warehouse.database import Database
    from mm_pipelines.warehouse.migrate import upgrade

    postgres = environment.postgres()
    with postgres.running() if postgres is not None else contextlib.nullcontext():
        database = Database(environment.database_url())
        try:
            if postgres is not None:
                upgrade(database)
            yield database
        finally:
            database.dispose()
