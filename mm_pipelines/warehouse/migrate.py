"""Migrate the schema ``mm`` to the current version, from nothing or from any released one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"

_STATEMENT_SECONDS = 6 * 3600.0
"""A migration may rewrite a large table or create its indexes."""

_HAS_SCHEMA = text("select 1 from pg_namespace where nspname = :schema")


def upgrade(database: Database) -> str:
    """Apply the missing migrations in one transaction and return the head revision.

    Several processes may call it at once: the others wait and then find nothing to do.
    """
    config = _config()
    with (
        database.lock("migrations", wait=True),
        database.transaction(answer_seconds=_STATEMENT_SECONDS) as connection,
    ):
        # Dagster keeps its storage in the second one and creates its own tables.
        for schema in ("mm", "dagster"):
            # `if not exists` would need the right to create schemas where it exists too.
            if connection.scalar(_HAS_SCHEMA, {"schema": schema}) is None:
                connection.execute(text(f"create schema {schema}"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return head()


def head() -> str:
    """Return the newest revision that this version of the software contains."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None  # noqa: S101 - the package contains its migrations
    return revision


def current(database: Database) -> str | None:
    """Return the revision of the database; None before the first migration."""
    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": "mm"})
        return context.get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config
