"""Which lists of people who leave were read, and what they were then."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, text

_RECORD = text("""
insert into mm.unsubscribe_list (page_id, list_day, mark, fingerprint, row_count)
values (:page_id, :list_day, :mark, :fingerprint, :row_count)
on conflict (page_id, list_day) do update
set mark = excluded.mark, fingerprint = excluded.fingerprint, row_count = excluded.row_count,
    read_at = now()
""")

_MARKS = text("""
select list_day, mark from mm.unsubscribe_list
where page_id = :page_id and list_day >= :since
""")


@dataclass(frozen=True)
class ListRead:
    """A list as it was read.

    Attributes:
        mark: What the file system told of it; changes when the list does.
        fingerprint: SHA-256 of its bytes.
    """

    mark: str
    fingerprint: str
    row_count: int


def record(connection: Connection, page_id: str, list_day: date, read: ListRead) -> None:
    """Note in the transaction that records its rows that a list was read."""
    connection.execute(_RECORD, {"page_id": page_id, "list_day": list_day, **vars(read)})


def marks(connection: Connection, page_id: str, since: date) -> Mapping[date, str]:
    """The marks of the lists that were read, by their days."""
    rows = connection.execute(_MARKS, {"page_id": page_id, "since": since})
    return {row.list_day: row.mark for row in rows}
