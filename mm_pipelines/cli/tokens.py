"""`mm tokens`: exports the sendable tokens."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import fail, working
from mm_pipelines.cli.selection import require_page

app = typer.Typer(no_args_is_help=True, help="Subscription tokens.")


@app.callback()
def _group() -> None:
    """Keep `export` a subcommand: Typer would otherwise merge a group's only command into it."""


@app.command()
def export(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .csv or .parquet file; default: CSV to the output."),
    ] = None,
    page: Annotated[str | None, typer.Option(help="Only this Page, by its key.")] = None,
) -> None:
    """Write the sendable tokens as CSV or Parquet. Only the file's owner can read it."""
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.tokens.export import FileFormat, copy_sendable, export_sendable

    formats = {".csv": FileFormat.CSV, ".parquet": FileFormat.PARQUET}
    if output is not None and output.suffix not in formats:
        fail(f"{output}: the name must end in {' or '.join(formats)}")
    environment = Environment.resolve()
    page_id = None if page is None else require_page(environment, page).page_id
    with open_database(environment) as database:
        if output is None:
            copy_sendable(database, page_id, sys.stdout)
            return
        with working(f"writing {output}"):
            count = export_sendable(database, page_id, output, formats[output.suffix])
    typer.echo(f"{count:,} tokens in {output}", err=True)
