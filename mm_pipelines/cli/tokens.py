"""`mm tokens`: the tokens that may be messaged, for whoever sends."""

from __future__ import annotations

import os
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.installation import open_database
from mm_pipelines.cli.output import fail

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(no_args_is_help=True, help="Subscription tokens.")


class Format(StrEnum):
    """A file format."""

    CSV = "csv"
    PARQUET = "parquet"


@app.callback()
def _group() -> None:
    """Keep `export` a subcommand: Typer would otherwise merge a group's only command into it."""


@app.command()
def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; default: standard output.")
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Default: as the file's name ends, or CSV.")
    ] = None,
    page: Annotated[str | None, typer.Option(help="Only this Page, by its key.")] = None,
) -> None:
    """Write the sendable tokens as CSV or Parquet; the file is readable by its owner alone."""
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.warehouse.sendable_token import sendable_tokens

    environment = Environment.resolve()
    page_id = None
    if page is not None:
        pages = environment.config().pages
        if page not in pages:
            fail(f"{environment.config_path} has no page {page!r}; known are {', '.join(pages)}")
        page_id = pages[page].page_id
    if format_ is None:
        is_parquet = output is not None and output.suffix == ".parquet"
        format_ = Format.PARQUET if is_parquet else Format.CSV
    with open_database(environment) as database, database.bulk() as bulk:
        frame = sendable_tokens(bulk, page_id)
    if output is None:
        _write(frame, format_, None)
        return
    # Beside its place and renamed: the file appears whole. mkstemp's mode is 0600.
    handle, partial = tempfile.mkstemp(dir=output.absolute().parent, prefix=f".{output.name}-")
    os.close(handle)
    _write(frame, format_, Path(partial))
    Path(partial).replace(output)
    typer.echo(f"{frame.height:,} tokens in {output}", err=True)


def _write(frame: pl.DataFrame, format_: Format, path: Path | None) -> None:
    target = path if path is not None else sys.stdout.buffer
    if format_ is Format.CSV:
        frame.write_csv(target)
    else:
        frame.write_parquet(target)
