"""Frozen deltas: the people to add to or remove from a Custom Audience, as an immutable file.

Every batch is a slice of such a file, so a rerun finishes the same work. A Custom Audience has at
most one open delta per operation: an unfinished upload does not delay a removal.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

Operation = Literal["add", "remove"]
Origin = Literal["payload", "mirror", "replaced", "removals", "leavers"]
"""Why a delta was made: a payload's new people, members that a mirrored list no longer contains,
members whose phone has another hash under newer rules, a removal list, or opted-out people."""

Outcome = Literal["refused", "abandoned", "continued"]
"""How a delta ended that was not delivered whole: Meta refused it, a person gave it up, or another
delta took over its remaining people."""

COUNTED = "is_counted"
"""The column of a delta's file that is false where a row does not change who is a member, because
the person already was one, or was none. Without the column, every row changes it."""

_COLUMNS = """
id, audience, day, custom_audience_id, operation, origin, source_sha256, path, row_count, keys,
left_out, topped_up, created_at, completed_at, closed_at, outcome, close_reason
"""

# Returns the new delta.
_FREEZE = text(f"""
insert into mm.upload_delta
    (audience, day, custom_audience_id, operation, origin, source_sha256, path, row_count, keys,
     left_out, topped_up, completed_at)
values
    (:audience, :day, :custom_audience_id, :operation, :origin, :source_sha256, :path, :row_count,
     :keys, :left_out, :topped_up, case when :row_count = 0 then now() end)
returning {_COLUMNS}
""")

# Returns the open deltas of a Custom Audience or of a key, those of one operation or of both, the
# oldest first.
_OPEN = text(f"""
select {_COLUMNS} from mm.upload_delta
where completed_at is null and closed_at is null
  and (custom_audience_id = :custom_audience_id or audience = :audience)
  and operation = any(:operations)
order by id
""")

# Returns the newest delta of a day and origin, or no row.
_LATEST = text(f"""
select {_COLUMNS} from mm.upload_delta
where custom_audience_id = :custom_audience_id and day = :day and origin = :origin
order by id desc limit 1
""")

# Returns the newest day of which a payload was delivered, or begun to be.
_NEWEST_DAY = text("""
select max(day) from mm.upload_delta
where custom_audience_id = :custom_audience_id and origin = 'payload'
""")

# Returns whether a Custom Audience has an upload, an empty one included.
_HAS_UPLOADS = text("""
select exists (select from mm.upload_delta
               where custom_audience_id = :custom_audience_id and operation = 'add')
""")

# Returns whether a payload was delivered to a former Custom Audience whose people were taken over.
_TAKEN_OVER = text("""
select exists (
    select from mm.upload_delta as takeover
    join mm.upload_delta as former
      on takeover.source_sha256 = 'members of ' || former.custom_audience_id
    where takeover.custom_audience_id = :custom_audience_id
      and former.audience = takeover.audience and former.origin = 'payload'
      and former.day = :day and former.source_sha256 = :source_sha256
)
""")

# Returns the Custom Audience that a key was bound to before this one, or no row.
_FORMER = text("""
select custom_audience_id from mm.upload_delta
where audience = :audience and custom_audience_id <> :custom_audience_id and operation = 'add'
order by id desc limit 1
""")

_COMPLETE = text("update mm.upload_delta set completed_at = now() where id = :id")

_NOTE_FAILURE = text("""
update mm.upload_delta
set last_failure = :reason, parked_at = case when :is_parked then now() end
where id = :id
""")

_CLOSE = text("""
update mm.upload_delta set closed_at = now(), outcome = :outcome, close_reason = :reason
where id = :id and completed_at is null and closed_at is null
""")

# Returns the deltas whose undelivered people are still due, oldest first.
_DUE = text(f"""
select {_COLUMNS} from mm.upload_delta
where custom_audience_id = :custom_audience_id and operation = 'add'
  and closed_at is not null and continued_by is null
order by id
""")

_CONTINUE = text("""
update mm.upload_delta set continued_by = :continued_by where id = :id
""")

# Returns the deltas with rows newer than :id, oldest first; `is_final` where nothing of them can
# change any more.
_AFTER = text(f"""
select {_COLUMNS}, completed_at is not null or continued_by is not null as is_final
from mm.upload_delta
where custom_audience_id = :custom_audience_id and id > :id and row_count > 0
order by id
""")

# Whether Meta acknowledged rows of a delta that the membership file lacks.
_IS_UNFOLDED = """
delta.id > coalesce((select through_delta_id from mm.membership
                     where custom_audience_id = delta.custom_audience_id), 0)
and exists (
    select from mm.upload_batch where delta_id = delta.id and status = 'acknowledged'
    union all
    select from mm.removal_batch where delta_id = delta.id and status = 'acknowledged'
)
"""

# Returns the files that an open delta, people still due, or a membership need. Those of a released
# Custom Audience are kept for a time, because a key may be bound to it again.
_PATHS_IN_USE = text(f"""
select path from mm.upload_delta as delta
where (completed_at is null and continued_by is null or {_IS_UNFOLDED})
  and (created_at >= :forgotten_since
       or exists (select from mm.custom_audience
                  where custom_audience_id = delta.custom_audience_id))
union
select path from mm.membership
union
select unnest(paths) from mm.removal_list as list
where done_at is null
   or exists (select from mm.upload_delta
              where audience = list.audience and operation = 'add'
                and completed_at is null and continued_by is null)
""")

# Deletes the memberships of Custom Audiences that were released before a time.
_RELEASE = text("""
delete from mm.membership as file
where written_at < :before and not exists (
    select from mm.custom_audience where custom_audience_id = file.custom_audience_id
)
""")

# Returns the Custom Audiences with a final delta that the membership file lacks: one of an earlier
# time, or a removal.
_UNFOLDED = text(f"""
select distinct known.audience, known.custom_audience_id
from mm.custom_audience as known
join mm.upload_delta as delta using (custom_audience_id)
where (delta.completed_at is not null or delta.continued_by is not null)
  and (delta.created_at < :before or delta.operation = 'remove')
  and {_IS_UNFOLDED}
order by known.audience
""")


@dataclass(frozen=True, kw_only=True)
class NewDelta:
    """A published file, about to become a delta.

    Attributes:
        custom_audience_id: The Custom Audience it is for; a new one begins without members.
        source_sha256: Content hash of the payload or list that it was made from.
        path: The Parquet file in the storage: the columns ``keys`` and ``row_number``.
        row_count: Rows of the file.
        keys: The schema keys sent for each row, in this order.
        left_out: People excluded because they opted out or were removed.
        topped_up: Rows whose people were members already.
    """

    audience: str
    day: date
    custom_audience_id: str
    operation: Operation
    origin: Origin
    source_sha256: str
    path: str
    row_count: int
    keys: tuple[str, ...]
    left_out: int = 0
    topped_up: int = 0


@dataclass(frozen=True, kw_only=True)
class Delta(NewDelta):
    """One frozen delta.

    Attributes:
        completed_at: When its last slice was acknowledged.
        closed_at: When it ended without being delivered whole.
        outcome: How it ended then.
        close_reason: Why it ended then, in a sentence.
    """

    id: int
    created_at: datetime
    completed_at: datetime | None = None
    closed_at: datetime | None = None
    outcome: Outcome | None = None
    close_reason: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has slices to send."""
        return self.completed_at is None and self.closed_at is None


def freeze(connection: Connection, new: NewDelta) -> Delta:
    """Record a published file as the work to do; one without rows is complete at once.

    Raises:
        sqlalchemy.exc.IntegrityError: The Custom Audience has an open delta of this operation.
    """
    return _delta(connection.execute(_FREEZE, {**vars(new), "keys": list(new.keys)}).one())


def find_open(
    connection: Connection, custom_audience_id: str, operation: Operation
) -> Delta | None:
    """The unfinished delta of an operation, whichever day it is of."""
    values = {
        "custom_audience_id": custom_audience_id,
        "audience": None,
        "operations": [operation],
    }
    found = connection.execute(_OPEN, values).one_or_none()
    return _delta(found) if found else None


def open_of_key(connection: Connection, audience: str) -> list[Delta]:
    """The unfinished deltas of a key, those of a former Custom Audience included, oldest first."""
    values = {
        "custom_audience_id": None,
        "audience": audience,
        "operations": ["add", "remove"],
    }
    return [_delta(row) for row in connection.execute(_OPEN, values)]


def latest(
    connection: Connection, custom_audience_id: str, day: date, origin: Origin
) -> Delta | None:
    """The newest delta of a day and origin."""
    found = connection.execute(
        _LATEST, {"custom_audience_id": custom_audience_id, "day": day, "origin": origin}
    ).one_or_none()
    return _delta(found) if found else None


def newest_day(connection: Connection, custom_audience_id: str) -> date | None:
    """The newest day whose payload was delivered, or begun to be."""
    day: date | None = connection.scalar(_NEWEST_DAY, {"custom_audience_id": custom_audience_id})
    return day


def has_uploads(connection: Connection, custom_audience_id: str) -> bool:
    """Whether anything was ever to be uploaded to a Custom Audience."""
    return bool(connection.scalar(_HAS_UPLOADS, {"custom_audience_id": custom_audience_id}))


def former_custom_audience(
    connection: Connection, audience: str, custom_audience_id: str
) -> str | None:
    """The Custom Audience that a key had before this one, if people were uploaded to it."""
    found: str | None = connection.scalar(
        _FORMER, {"audience": audience, "custom_audience_id": custom_audience_id}
    )
    return found


def takeover_source(former_custom_audience_id: str) -> str:
    """The ``source_sha256`` of the delta with the people of a former Custom Audience."""
    return f"members of {former_custom_audience_id}"


def was_taken_over(
    connection: Connection, custom_audience_id: str, day: date, source_sha256: str
) -> bool:
    """Whether a payload's people came from a former Custom Audience of the key."""
    values = {
        "custom_audience_id": custom_audience_id,
        "day": day,
        "source_sha256": source_sha256,
    }
    return bool(connection.scalar(_TAKEN_OVER, values))


def complete(connection: Connection, delta: Delta) -> None:
    """Record that no slice is left to send."""
    connection.execute(_COMPLETE, {"id": delta.id})


def close(connection: Connection, delta: Delta, outcome: Outcome, reason: str) -> None:
    """End a delta that is not delivered whole; its acknowledged slices stay members."""
    connection.execute(_CLOSE, {"id": delta.id, "outcome": outcome, "reason": reason})


def note_failure(
    connection: Connection, delta: Delta, reason: str, *, is_parked: bool = False
) -> None:
    """Record why a delta is not finished yet, and whether it waits for a larger audience."""
    connection.execute(_NOTE_FAILURE, {"id": delta.id, "reason": reason, "is_parked": is_parked})


def still_due(connection: Connection, custom_audience_id: str) -> list[Delta]:
    """The closed uploads whose undelivered people no other delta took over, oldest first."""
    rows = connection.execute(_DUE, {"custom_audience_id": custom_audience_id})
    return [_delta(row) for row in rows]


def continue_in(connection: Connection, closed: Delta, successor: Delta) -> None:
    """Record which delta took over the undelivered people of a closed one."""
    connection.execute(_CONTINUE, {"id": closed.id, "continued_by": successor.id})


def after(
    connection: Connection, custom_audience_id: str, delta_id: int
) -> list[tuple[Delta, bool]]:
    """The deltas with rows newer than ``delta_id``, oldest first, and whether each is final.

    A final delta is completed, or its undelivered people were taken over by another.
    """
    rows = connection.execute(_AFTER, {"custom_audience_id": custom_audience_id, "id": delta_id})
    return [(_delta(row), row.is_final) for row in rows]


def paths_in_use(connection: Connection, *, forgotten_since: datetime) -> set[str]:
    """The files of the storage that deliveries still need: retention keeps them.

    Args:
        connection: In a transaction.
        forgotten_since: The deltas of released Custom Audiences are needed from then on.
    """
    return set(connection.scalars(_PATHS_IN_USE, {"forgotten_since": forgotten_since}))


def release_memberships(connection: Connection, before: datetime) -> None:
    """Delete the memberships of Custom Audiences that were released before a time."""
    connection.execute(_RELEASE, {"before": before})


def unfolded(connection: Connection, before: datetime) -> dict[str, str]:
    """The Custom Audiences whose membership file lacks a final delta of an earlier time.

    One that lacks a removal is among them at any time, so that removed people leave the file.

    Returns:
        Custom Audience ids by the audience's key.
    """
    rows = connection.execute(_UNFOLDED, {"before": before})
    return {row.audience: row.custom_audience_id for row in rows}


def _delta(row: Row[Any]) -> Delta:
    values = {name: value for name, value in row._asdict().items() if name != "is_final"}
    return Delta(**{**values, "keys": tuple(row.keys)})
