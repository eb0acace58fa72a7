"""`mm db`: the schema, backups, the address and the embedded server."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.output import fail, working

if TYPE_CHECKING:
    from mm_pipelines.local.postgres import EmbeddedPostgres

app = typer.Typer(no_args_is_help=True, help="Migrate, back up, restore or remove the database.")


@app.command()
def upgrade() -> None:
    """Apply the migrations that are missing."""
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.warehouse import migrate
    from mm_pipelines.warehouse.database import Database

    environment = Environment.resolve()
    postgres = environment.postgres()
    with postgres.running() if postgres is not None else contextlib.nullcontext():
        database = Database(environment.database_url())
        try:
            revision = migrate.upgrade(database)
        finally:
            database.dispose()
    typer.echo(f"{database.masked_url} is at revision {revision}")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to create.", dir_okay=False)],
) -> None:
    """Back up the database to a file, also while it is in use.

    The file contains personal data. Only its owner can read it. Back up the storage and the
    suppression key too: docs/operations.md says how.
    """
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.local.postgres import dump
    from mm_pipelines.warehouse.database import Database

    environment = Environment.resolve()
    postgres = environment.postgres()
    with postgres.running() if postgres is not None else contextlib.nullcontext():
        url = Database(environment.database_url()).url
        with working(f"backing up to {file}"):
            dump.backup(url, file, environment.postgres_binaries)
    key = "MM_SUPPRESSION_KEY"
    if environment.external_suppression_key is None:
        key = str(environment.home / "suppression.key")
    typer.echo(f"{file}: {file.stat().st_size:,} bytes")
    typer.echo(f"Keep it together with a copy of {environment.storage_url} and of {key}.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `mm db backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the data that the database contains.")
    ] = False,
) -> None:
    """Restore the database from a backup and migrate it to this version.

    Stop everything else first. If the restore fails, the database is unchanged.
    """
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.local.postgres import dump
    from mm_pipelines.warehouse import migrate
    from mm_pipelines.warehouse.database import Database

    environment = Environment.resolve()
    postgres = environment.postgres()
    dump.require_dump(file)
    if postgres is not None and replace:
        _replace_unreadable_data(postgres)
    with postgres.running() if postgres is not None else contextlib.nullcontext():
        database = Database(environment.database_url())
        with working(f"restoring {file}"):
            dump.restore(database.url, file, environment.postgres_binaries, replace=replace)
        try:
            revision = migrate.upgrade(database)
        finally:
            database.dispose()
    typer.echo(f"{database.masked_url} is restored and at revision {revision}")


def _replace_unreadable_data(postgres: EmbeddedPostgres) -> None:
    """Rename the embedded server's data if another major version of PostgreSQL wrote them."""
    from mm_pipelines.local.postgres import PostgresVersionError

    try:
        with postgres.running():
            return
    except PostgresVersionError:
        typer.echo(f"the old data are kept in {postgres.replace_data()}")


@app.command()
def url() -> None:
    """Print the database's URL with its password masked."""
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.warehouse.database import Database

    typer.echo(Database(Environment.resolve().database_url()).masked_url)


@app.command()
def stop() -> None:
    """Stop the embedded server, which `mm env` leaves running."""
    from mm_pipelines.local.environment import Environment

    postgres = Environment.resolve().postgres()
    if postgres is not None:
        postgres.stop()


@app.command()
def remove(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete the embedded server and all its data."""
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    postgres = environment.postgres()
    if postgres is None:
        fail("MM_DATABASE_URL names a server that is not ours to delete")
    if not yes:
        typer.confirm(f"Delete the database of {environment.home}?", abort=True)
    postgres.remove()
