"""Receipts in ``mm.erasure_receipt``: what was found of a person, and what became of it.

They contain no identifier. An entry is open until the data is removed, Meta accepted the request,
or the outcome says why neither happens. Meta confirms that it accepted a request, no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import polars as pl
from sqlalchemy import Connection, text

EntryKind = Literal["table", "file", "page", "custom_audience"]

_IS_OPEN = "entry.removed_at is null and entry.accepted_at is null and entry.outcome is null"

# Adds entries; rows of a table are removed already.
_RECORD = text("""
insert into mm.erasure_receipt (request_id, kind, place, found, removed_at, checked_at)
select request_id, kind, place, found, case when kind = 'table' then now() end, :searched_at
from unnest(
    cast(:request_id as bigint[]), cast(:kind as text[]), cast(:place as text[]),
    cast(:found as bigint[])
) as entry (request_id, kind, place, found)
on conflict (request_id, kind, place) do nothing
""")

# Adds an entry for each Page that is asked.
_RECORD_PAGES = text("""
insert into mm.erasure_receipt (request_id, kind, place)
select erasure_id, 'page', page_id from mm.unsubscribe_request where erasure_id = any(:ids)
on conflict (request_id, kind, place) do nothing
""")

# Whether the Page of an entry answered its opt-out request.
_ANSWERED = f"""
entry.kind = 'page' and {_IS_OPEN}
and opt_out.erasure_id = entry.request_id and opt_out.page_id = entry.place
and opt_out.state in ('confirmed', 'rejected')
"""

# Closes the entries of Pages that answered.
_CLOSE_PAGES = text(f"""
update mm.erasure_receipt as entry
set accepted_at = case opt_out.state when 'confirmed' then opt_out.settled_at end,
    outcome = opt_out.why
from mm.unsubscribe_request as opt_out where {_ANSWERED}
""")

# The open entries of Custom Audiences that changed since they were searched, or that no key of
# mm.yaml is bound to any more.
_CHANGED = f"""
from mm.erasure_receipt as entry
join mm.erasure_request as request on request.id = entry.request_id
left join mm.custom_audience as known on known.custom_audience_id = entry.place
left join lateral (
    select max(greatest(completed_at, closed_at)) as changed_at,
           max(completed_at) filter (where operation = 'remove') as removed_at
    from mm.upload_delta where custom_audience_id = entry.place
) as delta on true
where entry.kind = 'custom_audience' and {_IS_OPEN}
  and (known.audience is null or delta.changed_at > entry.checked_at)
"""

# Returns what to search these audiences for.
_AUDIENCES_TO_SEARCH = text(f"""
select entry.place as custom_audience_id, entry.request_id, request.digests, delta.removed_at,
       known.audience is not null as is_recorded, now() as searched_at
{_CHANGED}
order by 1, 2
""")

# Records that an audience was searched, and the outcome if that closes the entry.
_SEARCHED = text("""
update mm.erasure_receipt
set checked_at = :searched_at, accepted_at = :accepted_at, outcome = :outcome
where kind = 'custom_audience' and place = :custom_audience_id and request_id = any(:request_ids)
""")

# Returns the files of open entries.
_OPEN_FILES = text(f"""
select distinct place from mm.erasure_receipt as entry where kind = 'file' and {_IS_OPEN}
""")

# Closes the entries of files that are gone.
_CLOSE_FILES = text(f"""
update mm.erasure_receipt as entry set removed_at = now()
where kind = 'file' and place = any(:paths) and {_IS_OPEN}
""")

# Returns when the newest work became due; null if there is none.
_DUE_SINCE = text(f"""
select max(due_at) from (
    select requested_at as due_at from mm.erasure_request where state = 'received'
    union all
    select opt_out.settled_at
    from mm.erasure_receipt as entry cross join mm.unsubscribe_request as opt_out
    where {_ANSWERED}
    union all
    select coalesce(delta.changed_at, now()) {_CHANGED}
) as due
""")

# Returns the entries of a receipt.
_RECEIPT = text("""
select kind, place, found, removed_at, accepted_at, outcome from mm.erasure_receipt
where request_id = :request_id order by kind, place
""")

# Returns the number of open entries by kind and place, the oldest request first.
_OPEN = text(f"""
select kind, place, count(*) as people, min(request.removed_at) as since
from mm.erasure_receipt as entry
join mm.erasure_request as request on request.id = entry.request_id
where {_IS_OPEN} group by kind, place order by since, kind, place
""")


@dataclass(frozen=True)
class NewEntry:
    """Something that was found."""

    request_id: int
    kind: EntryKind
    place: str
    found: int


@dataclass(frozen=True)
class Entry:
    """One line of a receipt.

    Attributes:
        place: A table, a file, a Page id or a Custom Audience id.
        found: The number of rows; None for a Page.
        removed_at: When the rows or the file were removed here.
        accepted_at: When Meta accepted our request.
        outcome: Why the entry ended otherwise, or what was ignored.
    """

    kind: EntryKind
    place: str
    found: int | None
    removed_at: datetime | None
    accepted_at: datetime | None
    outcome: str | None


@dataclass(frozen=True)
class OpenEntries:
    """The number of people whose entries for a place are open, and since when."""

    kind: EntryKind
    place: str
    people: int
    since: datetime


@dataclass(frozen=True)
class AudienceToSearch:
    """A Custom Audience that changed, and the people who were members.

    Attributes:
        digests: The columns ``request_id`` and ``value``.
        removed_at: When the newest removal was completed.
        is_recorded: False if no key of mm.yaml is bound to it any more.
    """

    custom_audience_id: str
    digests: pl.DataFrame = field(repr=False)
    removed_at: datetime | None
    is_recorded: bool
    searched_at: datetime


def record(connection: Connection, entries: Iterable[NewEntry], searched_at: datetime) -> None:
    """Add entries; an entry that exists stays as it is.

    Args:
        connection: In the caller's transaction, which removes what entries of tables count.
        entries: What was found.
        searched_at: When the search began.
    """
    added = list(entries)
    names = ("request_id", "kind", "place", "found")
    values = {name: [getattr(entry, name) for entry in added] for name in names}
    connection.execute(_RECORD, {**values, "searched_at": searched_at})


def record_pages(connection: Connection, request_ids: Sequence[int]) -> None:
    """Add an entry for each Page that is asked to unsubscribe these people."""
    connection.execute(_RECORD_PAGES, {"ids": list(request_ids)})


def close_pages(connection: Connection) -> None:
    """Close the entries of Pages that answered."""
    connection.execute(_CLOSE_PAGES)


def audiences_to_search(connection: Connection) -> list[AudienceToSearch]:
    """Return the Custom Audiences with open entries that changed since the last search."""
    rows = list(connection.execute(_AUDIENCES_TO_SEARCH))
    found = []
    for custom_audience_id in dict.fromkeys(row.custom_audience_id for row in rows):
        of = [row for row in rows if row.custom_audience_id == custom_audience_id]
        digests = pl.DataFrame(
            [(row.request_id, digest) for row in of for digest in row.digests],
            schema={"request_id": pl.Int64, "value": pl.String},
            orient="row",
        )
        first = of[0]
        found.append(
            AudienceToSearch(
                custom_audience_id, digests, first.removed_at, first.is_recorded, first.searched_at
            )
        )
    return found


def record_search(
    connection: Connection,
    audience: AudienceToSearch,
    request_ids: Sequence[int],
    *,
    accepted_at: datetime | None = None,
    outcome: str | None = None,
) -> None:
    """Record that an audience was searched; ``accepted_at`` or ``outcome`` closes the entries."""
    connection.execute(
        _SEARCHED,
        {
            "custom_audience_id": audience.custom_audience_id,
            "request_ids": list(request_ids),
            "searched_at": audience.searched_at,
            "accepted_at": accepted_at,
            "outcome": outcome,
        },
    )


def open_files(connection: Connection) -> list[str]:
    """Return the files that contain people and are not removed yet."""
    return list(connection.scalars(_OPEN_FILES))


def close_files(connection: Connection, paths: Sequence[str]) -> None:
    """Record that files are removed."""
    connection.execute(_CLOSE_FILES, {"paths": list(paths)})


def due_since(connection: Connection) -> datetime | None:
    """Return when the newest work for `erase` became due; None if there is none."""
    found: datetime | None = connection.scalar(_DUE_SINCE)
    return found


def receipt(connection: Connection, request_id: int) -> list[Entry]:
    """Return the entries of a request's receipt."""
    rows = connection.execute(_RECEIPT, {"request_id": request_id})
    return [Entry(**row._asdict()) for row in rows]


def open_entries(connection: Connection) -> list[OpenEntries]:
    """Return what is not removed or accepted yet, the oldest first."""
    return [OpenEntries(**row._asdict()) for row in connection.execute(_OPEN)]
