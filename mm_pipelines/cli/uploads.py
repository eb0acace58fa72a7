"""`mm uploads`: deliveries that did not end, and a way to close them."""

from dataclasses import asdict
from typing import Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import show

app = typer.Typer(help="Deliveries that did not reach everyone.")


@app.callback(invoke_without_command=True)
def uploads(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the deliveries that are open or refused, since when, and why."""
    if context.invoked_subcommand is not None:
        return
    from mm_pipelines.delivery import pauses
    from mm_pipelines.delivery.open_uploads import not_delivered
    from mm_pipelines.local.environment import Environment

    with open_database(Environment.resolve()) as database, database.transaction() as connection:
        rows = [asdict(upload) for upload in not_delivered(connection)]
        paused = pauses.find_all(connection)
    show(rows, as_json=as_json, empty="Every delivery reached everyone.")
    if not as_json:
        for pause in paused:
            typer.echo(str(pause))


@app.command()
def abandon(
    audience: Annotated[str, typer.Argument(help="The audience, by its key in mm.yaml.")],
) -> None:
    """Close an audience's open deliveries; what Meta acknowledged stays.

    The people who were not delivered become part of the audience's next upload.
    """
    from mm_pipelines.delivery.open_uploads import abandon as close
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.storage import Storage

    environment = Environment.resolve()
    with open_database(environment) as database:
        closed = close(database, Storage(environment.storage_url), audience)
    if not closed:
        typer.echo(f"{audience} has no open delivery")
    for delta in closed:
        verb = "upload" if delta.operation == "add" else "removal"
        typer.echo(f"closed the {verb} of {delta.audience}, {delta.day}")
