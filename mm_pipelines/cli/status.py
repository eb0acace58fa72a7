"""`mm status`: partitions, Pages, webhooks and rejected rows."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import encode, fail, show

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mm_pipelines.local.environment import Environment

_MOST_ROWS = 20
_FAILING = ("failed", "overdue")
_EMPTY = {
    "partitions": "No list was hashed yet.",
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
    """Show the partitions, the Pages' tokens, the webhooks and the rejected rows.

    The newest partitions come first. With --failing: partitions whose batches failed or are
    overdue at Meta, and uploads that did not reach everyone.
    """
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.report import overview

    environment = Environment.resolve()
    audiences, page_ids = _selection(environment, audience, page)
    with open_database(environment) as database, database.transaction() as connection:
        partitions = overview.partitions(connection, audiences, since.date() if since else None)
        if failing:
            report = {
                "partitions": [row for row in partitions if row["status"] in _FAILING],
                "uploads": _failing_uploads(connection, audiences, since),
            }
        else:
            report = {"partitions": partitions, **_others(connection, page_ids)}
    if as_json:
        typer.echo(encode(report))
    else:
        _show_tables(report, failing=failing)
    if failing and any(report.values()):
        raise typer.Exit(1)


def _selection(
    environment: Environment, audience: str | None, page: str | None
) -> tuple[list[str] | None, list[str] | None]:
    """The audiences and the ids of the Pages that the options select; None selects all."""
    if audience is None and page is None:
        return None, None
    config = environment.config()
    if audience is not None and audience not in config.audiences:
        known = ", ".join(config.audiences)
        fail(f"{environment.config_path} has no audience {audience!r}; known are {known}")
    if page is not None and page not in config.pages:
        known = ", ".join(config.pages)
        fail(f"{environment.config_path} has no page {page!r}; known are {known}")
    audiences = [
        key
        for key, configured in config.audiences.items()
        if audience in (None, key) and page in (None, configured.page)
    ]
    return audiences, [config.pages[page].page_id] if page is not None else None


def _others(connection: Connection, page_ids: list[str] | None) -> dict[str, list[dict[str, Any]]]:
    from mm_pipelines.report import overview
    from mm_pipelines.webhooks import webhook_event

    return {
        "pages": [
            row
            for row in overview.pages(connection)
            if page_ids is None or row["page_id"] in page_ids
        ],
        "webhooks": [asdict(counts) for counts in webhook_event.counts(connection)],
        "rejections": overview.rejections(connection),
    }


def _failing_uploads(
    connection: Connection, audiences: list[str] | None, since: datetime | None
) -> list[dict[str, Any]]:
    from mm_pipelines.delivery.open_uploads import not_delivered

    return [
        asdict(upload)
        for upload in not_delivered(connection)
        if upload.why is not None
        and (audiences is None or upload.audience in audiences)
        and (since is None or upload.day >= since.date())
    ]


def _show_tables(report: dict[str, list[dict[str, Any]]], *, failing: bool) -> None:
    for name, rows in report.items():
        typer.secho(name, bold=True)
        empty = "No partition is failing." if failing and name == "partitions" else _EMPTY[name]
        show(rows[:_MOST_ROWS], as_json=False, empty=empty)
        if len(rows) > _MOST_ROWS:
            typer.echo(f"{len(rows) - _MOST_ROWS:,} more; see --audience, --page, --since, --json")
        typer.echo("")
