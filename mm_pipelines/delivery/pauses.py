"""Paused uploads. Removals and opt-outs are never paused."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from mm_pipelines.delivery.errors import UploadsPausedError

EVERY_AUDIENCE = "*"

_PAUSE = text("""
insert into mm.upload_pause (audience) values (:audience) on conflict do nothing
""")

# Ends a pause, or all of them.
_RESUME = text("""
delete from mm.upload_pause where audience = :audience or :audience = '*'
""")

# Returns the pauses, the oldest first.
_ALL = text("select audience, paused_at from mm.upload_pause order by paused_at, audience")

# Returns since when the uploads of an audience are paused, or no row.
_PAUSED_AT = text("""
select min(paused_at) from mm.upload_pause where audience in (:audience, '*')
""")


@dataclass(frozen=True)
class Pause:
    """Uploads that are paused; the audience is ``*`` for all audiences."""

    audience: str
    paused_at: datetime

    def __str__(self) -> str:
        of = "All uploads" if self.audience == EVERY_AUDIENCE else f"The uploads of {self.audience}"
        return f"{of} are paused since {self.paused_at:%Y-%m-%d %H:%M} UTC"


def pause(connection: Connection, audience: str = EVERY_AUDIENCE) -> None:
    """Pause the uploads of an audience or of all; running uploads stop before their next batch."""
    connection.execute(_PAUSE, {"audience": audience})


def resume(connection: Connection, audience: str = EVERY_AUDIENCE) -> None:
    """Resume the uploads of an audience, or all uploads.

    A pause of all audiences is ended only for all of them.
    """
    connection.execute(_RESUME, {"audience": audience})


def find_all(connection: Connection) -> list[Pause]:
    """The pauses, the oldest first."""
    return [Pause(**row._asdict()) for row in connection.execute(_ALL)]


def raise_if_paused(connection: Connection, audience: str) -> None:
    """Stop an upload.

    Raises:
        UploadsPausedError: The uploads of the audience are paused.
    """
    paused_at: datetime | None = connection.scalar(_PAUSED_AT, {"audience": audience})
    if paused_at is not None:
        raise UploadsPausedError(
            f"The uploads of {audience} are paused since {paused_at:%Y-%m-%d %H:%M} UTC. Run "
            f"`mm resume` or `mm resume {audience}`; the upload then continues"
        )
