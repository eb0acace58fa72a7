"""Bring the schema ``mm`` up to date, from nothing or from any released version."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> str:
    """Apply every migration that is missing, in one transaction, and return the head revision.

    Several processes may call it at once: the second waits and then finds nothing to do.
    """
    config = _config()
    with database.lock("migrations", wait=True), database.transaction() as connection:
        connection.execute(text("create schema if not exists mm"))
        # Dagster's storage lives beside ours (design 5) and makes its own tables.
        connection.execute(text("create schema if not exists dagster"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return head()


def head() -> str:
    """The newest revision that this version of the software knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None  # noqa: S101 - the package ships its migrations
    return revision


def current(database: Database) -> str | None:
    """The revision the database is at; None before the first migration."""
    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": "mm"})
        return context.get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config
