"""The newest file of sendable tokens of each Page, and the changes that it does not contain yet.

Every change of a Page's sendable tokens adds a row to `mm.sendable_change`: a pull, an opt-in or
opt-out, a token's details. Publishing a file deletes the rows that were there before the file was
read, so a change that arrives meanwhile stays pending.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from posixpath import dirname
from typing import Final, Literal

from sqlalchemy import Connection, text

FOLDER: Final = "sendable_tokens"
"""Where the files are in the storage, in one folder for each Page."""

VALID_FOR: Final = timedelta(hours=2)
"""How long a sender may use a file. It is renewed when half of the time is over."""

# Adds a change of a Page's sendable tokens.
_NOTE = text("insert into mm.sendable_change (page_id, reason) values (:page_id, :reason)")

# Returns the time, and the changes that a file read from now on contains.
_BEGIN = text("""
select now() as as_of, coalesce(array_agg(id), '{}') as changes
from mm.sendable_change where page_id = :page_id
""")

# Deletes the changes that a published file contains.
_PUBLISHED = text("delete from mm.sendable_change where id = any(:changes)")

# Records the newest file of a Page.
_RECORD = text("""
insert into mm.sender_file (page_id, path, row_count, as_of, valid_until)
values (:page_id, :path, :row_count, :as_of, :valid_until)
on conflict (page_id) do update
set path = excluded.path, row_count = excluded.row_count, as_of = excluded.as_of,
    valid_until = excluded.valid_until
""")

# Returns the newest files that are, or were not long ago, valid.
_PATHS_IN_USE = text("select path from mm.sender_file where valid_until >= :since")

# Returns the Pages whose file lacks changes or is half expired, the longest due first.
_DUE = text("""
select page_id, file.as_of, change.newest_at,
       coalesce(change.lacks_consent, false) as lacks_consent,
       least(change.oldest_at, file.valid_until - cast(:renew_before as interval)) as due_at
from unnest(cast(:page_ids as text[])) as page (page_id)
left join mm.sender_file as file using (page_id)
left join lateral (
    select min(changed_at) as oldest_at, max(changed_at) as newest_at,
           bool_or(reason = 'consent') as lacks_consent
    from mm.sendable_change where page_id = page.page_id
) as change on true
where change.oldest_at is not null
   or file.valid_until - cast(:renew_before as interval) < now()
order by due_at
""")

# Returns the Pages whose file has lacked an opt-in or opt-out for longer than `grace`.
_BEHIND = text("""
select page_id, min(changed_at) as since from mm.sendable_change
where page_id = any(:page_ids) and reason = 'consent'
  and changed_at < now() - cast(:grace as interval)
group by page_id order by page_id
""")


@dataclass(frozen=True)
class Snapshot:
    """The state of a Page's tokens that a file is about to be read from.

    Attributes:
        as_of: The time of the state, or a little earlier.
        changes: The ids of the changes that it contains.
    """

    page_id: str
    as_of: datetime
    changes: Sequence[int]

    @property
    def valid_until(self) -> datetime:
        """Until when a sender may use the file."""
        return self.as_of + VALID_FOR


@dataclass(frozen=True)
class DueFile:
    """A Page whose file should be published again.

    Attributes:
        as_of: The time of the present file's state; None if there is no file.
        newest_at: When the newest change arrived; None if the file only expires.
        lacks_consent: Whether the file lacks an opt-in or opt-out.
    """

    page_id: str
    as_of: datetime | None
    newest_at: datetime | None
    lacks_consent: bool


@dataclass(frozen=True)
class FileBehind:
    """A Page whose file still lacks an opt-in or opt-out of this time."""

    page_id: str
    since: datetime


def note_change(
    connection: Connection, page_id: str, reason: Literal["consent", "pull", "tokens"]
) -> None:
    """Record, in the caller's transaction, that it changes a Page's sendable tokens."""
    connection.execute(_NOTE, {"page_id": page_id, "reason": reason})


def begin(connection: Connection, page_id: str) -> Snapshot:
    """The state that a file contains if it is read in a later transaction."""
    row = connection.execute(_BEGIN, {"page_id": page_id}).one()
    return Snapshot(page_id, row.as_of, row.changes)


def record(connection: Connection, snapshot: Snapshot, *, path: str, rows: int) -> None:
    """Record a published file, and that the snapshot's changes are in it."""
    connection.execute(_PUBLISHED, {"changes": list(snapshot.changes)})
    connection.execute(
        _RECORD,
        {
            "page_id": snapshot.page_id,
            "path": path,
            "row_count": rows,
            "as_of": snapshot.as_of,
            "valid_until": snapshot.valid_until,
        },
    )


def due(connection: Connection, page_ids: Sequence[str]) -> list[DueFile]:
    """The Pages whose file lacks changes or soon expires, the longest due first."""
    rows = connection.execute(_DUE, {"page_ids": list(page_ids), "renew_before": VALID_FOR / 2})
    return [DueFile(row.page_id, row.as_of, row.newest_at, row.lacks_consent) for row in rows]


def behind(
    connection: Connection, page_ids: Sequence[str], *, grace: timedelta
) -> list[FileBehind]:
    """The Pages whose file has lacked an opt-in or opt-out for longer than ``grace``."""
    rows = connection.execute(_BEHIND, {"page_ids": list(page_ids), "grace": grace})
    return [FileBehind(row.page_id, row.since) for row in rows]


def paths_in_use(connection: Connection, since: datetime) -> set[str]:
    """The newest files that were valid at a time or later, and their manifests."""
    newest = set(connection.scalars(_PATHS_IN_USE, {"since": since}))
    return newest | {f"{dirname(path)}/latest.json" for path in newest}
