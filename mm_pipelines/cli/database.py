"""`mm db`: the database's schema, its address, and the embedded server."""

import contextlib
from typing import Annotated

import typer

from mm_pipelines.cli.output import fail

app = typer.Typer(no_args_is_help=True, help="The database: schema, address, embedded server.")


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
def url() -> None:
    """Print the address of the database in use, its password masked."""
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
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the embedded server with all that is in it, wherever its data lie."""
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    postgres = environment.postgres()
    if postgres is None:
        fail("MM_DATABASE_URL names a server that is not ours to delete")
    if not yes:
        typer.confirm(f"Delete the database of {environment.home}?", abort=True)
    postgres.remove()
