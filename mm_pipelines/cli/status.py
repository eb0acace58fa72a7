"""`mm status`: partitions, Pages, webhooks and rejected rows."""

from dataclasses import asdict
from typing import Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import encode, show

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def status(as_json: AsJson = False) -> None:
    """Show the partitions, the Pages' tokens, the webhooks and the rejected rows."""
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.report import overview
    from mm_pipelines.webhooks import webhook_event

    with open_database(Environment.resolve()) as database, database.transaction() as connection:
        report = {
            "partitions": overview.partitions(connection),
            "pages": overview.pages(connection),
            "webhooks": [asdict(counts) for counts in webhook_event.counts(connection)],
            "rejections": overview.rejections(connection),
        }
    if as_json:
        typer.echo(encode(report))
        return
    empty = {
        "partitions": "No list was hashed yet.",
        "pages": "No Page's tokens were pulled yet.",
        "webhooks": "No webhook was received yet.",
        "rejections": "No row was rejected.",
    }
    for name, rows in report.items():
        typer.secho(name, bold=True)
        show(rows, as_json=False, empty=empty[name])
        typer.echo("")
