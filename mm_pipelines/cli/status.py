"""`mm status`: partitions, deferred work, Pages, webhooks and rejected rows."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import encode, show
from mm_pipelines.cli.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

Report = dict[str, list[dict[str, Any]]]

# Together they fit one screen.
_MOST_PARTITIONS, _MOST_OTHERS = 10, 5
_FAILING = ("failed", "overdue")
_EMPTY = {
    "partitions": "No list was hashed yet.",
    "paused": "No uploads are paused.",
    "deferred": "No work is deferred.",
    "pages": "No Page's tokens were pulled yet.",
    "webhooks": "No webhook was received yet.",
    "rejections": "No row was rejected.",
    "uploads": "No upload is failing.",
}


def status(
    audience: Annotated[str | None, typer.Option(help="Only this audience's partitions.")] = None,
    page: Annotated[str | None, typer.Option(help="Only this Page and its audiences.")] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only this day and later ones.")
    ] = None,
    failing: Annotated[
        bool,
        typer.Option("--failing", help="Only what fails; exit code 1 if anything does."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every row.")] = False,
) -> None:
    """Show the partitions, deferred work, the Pages' tokens, the webhooks and the rejected rows.

    The newest partitions come first. With --failing: partitions whose batches failed or are
    overdue at Meta, and uploads that did not reach everyone.
    """
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    # Without an option, audiences that are no longer in mm.yaml are shown too.
    audiences = pages = None
    if audience is not None or page is not None:
        selection = Selection.of(environment, audience=audience, page=page)
        audiences = selection.audiences
        pages = {key: environment.config().pages[key].page_id for key in selection.pages}
    collect = _failing if failing else _known
    with open_database(environment) as database, database.transaction() as connection:
        report = collect(connection, audiences, pages, since.date() if since else None)
    if as_json:
        typer.echo(encode(report))
    else:
        _show_tables(report, failing=failing)
    if failing and any(report.values()):
        raise typer.Exit(1)


def _known(
    connection: Connection,
    audiences: list[str] | None,
    pages: Mapping[str, str] | None,
    since: date | None,
) -> Report:
    """Everything of the selected audiences, and of the Pages by key and ID; None selects all."""
    from mm_pipelines.delivery import pauses
    from mm_pipelines.report import overview
    from mm_pipelines.webhooks import webhook_event

    selected = {*(audiences or ()), *(pages or ())}
    return {
        "partitions": overview.partitions(connection, audiences, since),
        "paused": [
            asdict(pause)
            for pause in pauses.find_all(connection)
            if audiences is None or pause.audience in (*audiences, pauses.EVERY_AUDIENCE)
        ],
        "deferred": [
            row
            for row in overview.deferrals(connection)
            if not selected or selected.intersection(row["partition"].split("|"))
        ],
        "pages": [
            row
            for row in overview.pages(connection)
            if pages is None or row["page_id"] in pages.values()
        ],
        "rejections": overview.rejections(connection, audiences, since),
        "webhooks": [asdict(counts) for counts in webhook_event.counts(connection)],
    }


def _failing(
    connection: Connection,
    audiences: list[str] | None,
    _pages: Mapping[str, str] | None,
    since: date | None,
) -> Report:
    from mm_pipelines.delivery.open_uploads import not_delivered
    from mm_pipelines.report import overview

    return {
        "partitions": [
            row
            for row in overview.partitions(connection, audiences, since)
            if row["status"] in _FAILING
        ],
        "uploads": [
            asdict(upload)
            for upload in not_delivered(connection)
            if upload.why is not None
            and (audiences is None or upload.audience in audiences)
            and (since is None or upload.day >= since)
        ],
    }


def _show_tables(report: Report, *, failing: bool) -> None:
    for name, rows in report.items():
        typer.secho(name, bold=True)
        empty = "No partition is failing." if failing and name == "partitions" else _EMPTY[name]
        most = _MOST_PARTITIONS if name == "partitions" else _MOST_OTHERS
        show(rows[:most], as_json=False, empty=empty)
        if len(rows) > most:
            typer.echo(f"{len(rows) - most:,} more; see --audience, --page, --since, --json")
        typer.echo("")
