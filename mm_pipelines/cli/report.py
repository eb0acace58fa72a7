"""`mm report`: the growth report as one HTML file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import fail, working
from mm_pipelines.cli.selection import Selection

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mm_pipelines.config import Config
    from mm_pipelines.report.html import PageSection

_DAYS = 90


def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .html file to write.")],
    page: Annotated[str | None, typer.Option(help="Only this Page, by its key.")] = None,
    audience: Annotated[str | None, typer.Option(help="Only this audience, by its key.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day of the curves; default: 90 days ago."),
    ] = None,
) -> None:
    """Write the growth report as one interactive HTML file that may be mailed.

    It shows the funnel with conversion rates, tokens by source, churn, match rates between Meta's
    bounds, and rejected rows by reason. With --audience also the audience's size, last days, and
    what waits. The file contains counts only and needs no network.
    """
    from mm_pipelines.local.environment import Environment

    if output.suffix != ".html":
        fail(f"{output}: the name must end in .html")
    environment = Environment.resolve()
    config = environment.config()
    selection = Selection.of(environment, audience=audience, page=page)
    first = since or datetime.now(config.zone) - timedelta(days=_DAYS)
    from mm_pipelines.report.audience_summary import summarize
    from mm_pipelines.report.html import report as as_html  # importing Altair takes a second

    with open_database(environment) as database, database.transaction() as connection:
        pages = [_of_page(connection, config, key, selection, first) for key in selection.pages]
        if audience is not None:
            summary = summarize(connection, audience)
            pages = [replace(section, audiences=[summary]) for section in pages]
    with working(f"drawing {output}"):
        output.write_text(as_html(pages, datetime.now(UTC)), encoding="utf-8")
    typer.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {len(pages)} Pages")


def _of_page(
    connection: Connection, config: Config, page: str, selection: Selection, first: datetime
) -> PageSection:
    from mm_pipelines.report import figures, growth
    from mm_pipelines.report.html import PageSection

    now = datetime.now(UTC)
    page_id = config.pages[page].page_id
    today = now.astimezone(config.zone).date()
    growth.bring_up_to_date(connection, page_id, config.audiences_of(page), config.zone, now)
    audiences = [key for key in selection.audiences if config.audiences[key].page == page]
    scope = figures.Scope(page, page_id, audiences, first.date(), today)
    days = (today - first.date()).days + 1
    return PageSection(
        figures.collect(connection, scope), growth.until(connection, page_id, today, days)
    )
