"""`mm pause` and `mm resume`: stop and start uploads. Removals and opt-outs go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mm_pipelines.cli.embedded_database import open_database
from mm_pipelines.cli.output import fail

if TYPE_CHECKING:
    from mm_pipelines.local.environment import Environment

_Audience = Annotated[
    str | None, typer.Argument(help="The audience, by its key in mm.yaml; without it, all.")
]


def pause(audience: _Audience = None) -> None:
    """Pause the uploads of an audience, or of all; removals and opt-outs go on.

    A running upload stops before its next batch. Its run ends, and the upload is deferred.
    """
    from mm_pipelines.delivery import pauses

    with open_database(_environment(audience)) as database, database.transaction() as connection:
        pauses.pause(connection, audience or pauses.EVERY_AUDIENCE)
    typer.echo(f"{_uploads_of(audience)} are paused")


def resume(audience: _Audience = None) -> None:
    """Resume the uploads of an audience, or of all; deferred uploads continue."""
    from mm_pipelines.delivery import pauses
    from mm_pipelines.orchestration import deferrals

    with open_database(_environment(audience)) as database, database.transaction() as connection:
        pauses.resume(connection, audience or pauses.EVERY_AUDIENCE)
        left = pauses.find_all(connection)
        if any(found.audience == pauses.EVERY_AUDIENCE for found in left):
            fail("All uploads are paused, so a single audience cannot be resumed. Run `mm resume`.")
        deferrals.make_paused_work_due(connection, audience)
    typer.echo(f"{_uploads_of(audience)} are resumed")


def _environment(audience: str | None) -> Environment:
    from mm_pipelines.local.environment import Environment

    environment = Environment.resolve()
    if audience is not None and audience not in environment.config().audiences:
        known = ", ".join(environment.config().audiences)
        fail(f"{environment.config_path} has no audience {audience!r}; known are {known}")
    return environment


def _uploads_of(audience: str | None) -> str:
    return "All uploads" if audience is None else f"The uploads of {audience}"
