"""`mm sources`: the lists of mm.yaml, tried out."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.output import show
from mm_pipelines.cli.selection import Selection

if TYPE_CHECKING:
    from mm_pipelines.config import Config

app = typer.Typer(help="The customer lists of mm.yaml.", no_args_is_help=True)


@app.callback()
def sources() -> None:
    """Group the commands about customer lists."""


@app.command()
def check(
    audience: Annotated[
        str | None, typer.Argument(help="One audience, by its key in mm.yaml; default: all.")
    ] = None,
    day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The lists' day; default: yesterday."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read each list and show its rows and the columns that are recognized.

    Files are read and queries run as customer_list does. Nothing is stored. The command exits with
    code 1 if a list cannot be used.
    """
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    config = environment.config()
    selected = Selection.of(environment, audience=audience, page=None)
    yesterday = datetime.now(config.zone).date() - timedelta(days=1)
    of_day = yesterday if day is None else day.date()
    rows = [_checked(config, key, of_day) for key in selected.audiences]
    show(rows, as_json=as_json, empty="mm.yaml has no audiences.")
    if any(row["fault"] for row in rows):
        raise typer.Exit(1)


def _checked(config: Config, audience: str, day: date) -> dict[str, object]:
    from mm_pipelines.lists import ListError, inspect_list
    from mm_pipelines.lists.configured import customer_source

    source = customer_source(config, audience, day)
    row: dict[str, object] = {"audience": audience, "source": source.name, "rows": None}
    row |= dict.fromkeys(("columns", "consent", "row_numbers", "fault"), "")
    try:
        report = inspect_list(source, default_country=config.audiences[audience].default_country)
    except ListError as error:
        return row | {"fault": f"{error.place}: {error.fault}" if error.place else error.fault}
    columns = (f"{key} from {' or '.join(names)}" for key, names in report.columns.items())
    return row | {
        "rows": report.rows,
        "columns": ", ".join(columns),
        "consent": ", ".join(report.consent.headers) or report.consent.source,
        "row_numbers": "stable" if report.ordered else "unstable: add order by or source.key",
    }
