"""`mm rejects`: the rejected rows of one list."""

from __future__ import annotations

import os
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import fail, show
from mm_pipelines.cli.selection import require_audience

if TYPE_CHECKING:
    from mm_pipelines.config import Config
    from mm_pipelines.local.environment import Environment

_MOST_ROWS = 50


def rejects(
    audience: Annotated[str, typer.Argument(help="The audience, by its key in mm.yaml.")],
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The list's day.")],
    values: Annotated[
        bool, typer.Option("--show", help="Also print the rows' values, read from the list.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Rows to print at most.")] = _MOST_ROWS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the row numbers of a list's rejected rows and the reasons.

    Row 1 is the first row below the header. With --show the list is read again, if it has not
    changed since it was hashed. The values are printed and stored nowhere.
    """
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.payload import quarantine

    environment = Environment.resolve()
    config = environment.config()
    require_audience(environment, audience)
    with open_database(environment) as database, database.transaction() as connection:
        total = quarantine.count(connection, audience, day.date())
        found = quarantine.find(connection, audience, day.date(), limit)
        cells: dict[int, dict[str, Any]] = {}
        if values and found:
            numbers = [row.row_number for row in found]
            cells = _read(environment, config, audience, day.date(), numbers)
    rows = [
        {
            "row": row.row_number,
            "stage": row.stage,
            "reasons": ", ".join(row.reasons),
            **cells.get(row.row_number, {}),
        }
        for row in found
    ]
    show(rows, as_json=as_json, empty=f"No row of {audience}, {day:%Y-%m-%d} was rejected.")
    if total > len(rows):
        typer.echo(f"{total - len(rows):,} more; see --limit", err=True)


def _read(
    environment: Environment, config: Config, audience: str, day: date, numbers: list[int]
) -> dict[int, dict[str, Any]]:
    """The cells of some rows by row number; the command ends if the list has changed."""
    import polars as pl

    from mm_pipelines.lists import ListError
    from mm_pipelines.lists.configured import customer_source
    from mm_pipelines.lists.rows import ROW_NUMBER

    cells: dict[int, dict[str, Any]] = {}
    try:
        customer_list = customer_source(config, audience, day).open()
        for frame in customer_list.chunks():
            chosen = frame.filter(pl.col(ROW_NUMBER).is_in(numbers))
            cells |= {row.pop(ROW_NUMBER): row for row in chosen.to_dicts()}
    except ListError as error:
        fail(str(error))
    hashed = _hashed_fingerprint(environment, audience, day)
    if hashed != customer_list.fingerprint:
        fail(
            f"the list of {audience}, {day} is not the one that was hashed: materialize "
            "customer_list and hashed_payload for this partition again"
        )
    return cells


def _hashed_fingerprint(environment: Environment, audience: str, day: date) -> str | None:
    """The fingerprint of the list that the newest `hashed_payload` was made from."""
    import dagster as dg

    for name, value in environment.exports().items():
        os.environ.setdefault(name, value)
    with dg.DagsterInstance.get() as instance:
        newest = instance.fetch_materializations(
            dg.AssetRecordsFilter(
                dg.AssetKey(environment.config().asset_path("hashed_payload")),
                asset_partitions=[f"{audience}|{day}"],
            ),
            limit=1,
        ).records
    materialization = newest[0].asset_materialization if newest else None
    tags = (materialization.tags if materialization else None) or {}
    return tags.get("dagster/input_data_version/customer_list")
