"""What most commands begin with: the environment, and the database running."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.warehouse.database import Database


@contextlib.contextmanager
def open_database(environment: Environment) -> Iterator[Database]:
    """The database; an embedded server runs at least as long as the block, up to date.

    A database that MM_DATABASE_URL names is taken as it is: `mm db upgrade` and `mm up` change it.
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
