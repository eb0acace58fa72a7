"""A day's list of people who leave: comma, semicolon or tab separated text, gzipped or not.

The columns are ``phone``, ``email``, ``psid``, ``subscriber_token`` (seed, Unsubscribe API), each
optional; other columns are not read. What stands in a row is never a reason to fail: one that names
nobody is recorded as such, and all others count.
"""

import csv
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from sqlalchemy import Connection, text

from mm_pipelines.consent.opt_out_requests import NewRequest
from mm_pipelines.lists.encoding import Text
from mm_pipelines.lists.errors import ListHeaderError, ListRowError
from mm_pipelines.lists.headers import recognised_key
from mm_pipelines.lists.source import Bytes

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


_FIELDS = ("phone", "email", "psid", "subscriber_token")
_BY_SCHEMA_KEY = {"PHONE": "phone", "EMAIL": "email"}
_HEADERS = {
    "psid": "psid",
    "pagescopedid": "psid",
    "recipientid": "psid",
    "subscribertoken": "subscriber_token",
    "subscriptiontoken": "subscriber_token",
    "notificationmessagestoken": "subscriber_token",
    "token": "subscriber_token",
}


@dataclass(frozen=True)
class UnsubscribeList:
    """What a list asks for.

    Attributes:
        fingerprint: SHA-256 of the file's bytes.
        requests: One a row that names somebody, with the row's keyed digest.
        nobody: The keyed digests of the rows that name nobody.
    """

    fingerprint: str
    requests: list[NewRequest] = field(repr=False)
    nobody: list[bytes] = field(repr=False)

    @property
    def rows(self) -> int:
        """Rows of the list, blank lines not counted."""
        return len(self.requests) + len(self.nobody)


def read_unsubscribe_list(url: str, suppression_key: bytes) -> UnsubscribeList:
    """Read a list of people who leave.

    Args:
        url: A local path or any fsspec URL.
        suppression_key: Under which a row is remembered, so that reading the list again adds
            nothing, while what the row says cannot be told from what is remembered.

    Raises:
        ListMissingError: There is no such file.
        ListUnreadableError: It cannot be read, or is no text.
        ListHeaderError: No column names people.
        ListRowError: The quotes are broken, so that nobody can say where a row ends.
    """
    source = Bytes(url)
    lines = _lines(Text(url, source.blocks).blocks())
    header = next(lines, "")
    delimiter = max(",;\t", key=header.count)
    places = _places(url, next(_records(url, iter([header]), delimiter), []))
    requests, nobody = [], []
    for number, cells in enumerate(_records(url, lines, delimiter), start=1):
        if not any(cell.strip() for cell in cells):
            continue
        named = {
            name: value
            for name, place in places.items()
            if place < len(cells) and (value := _storable(cells[place]))
        }
        if named:
            content = "\0".join(named.get(name, "") for name in _FIELDS)
            digest = hmac.digest(suppression_key, content.encode(), "sha256")
            requests.append(_request(named, digest))
        else:
            nobody.append(hmac.digest(suppression_key, f"row {number}".encode(), "sha256"))
    return UnsubscribeList(source.fingerprint, requests, nobody)


def _records(url: str, lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    # Strict: a quote that is never closed would make one unusable row of all that follow it.
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            yield next(records)
        except StopIteration:
            return
        except csv.Error:
            fault = "a quote or the end of a line is broken; save the list again as CSV"
            raise ListRowError(url, f"line {records.line_num + 1:,}", fault) from None


def _storable(cell: str) -> str:
    return cell.replace("\0", "").strip()  # PostgreSQL keeps no text with NUL in it


def _request(named: dict[str, str], digest: bytes) -> NewRequest:
    return NewRequest(
        phone=named.get("phone"),
        email=named.get("email"),
        psid=named.get("psid"),
        subscriber_token=named.get("subscriber_token"),
        row_digest=digest,
    )


def _places(url: str, header: list[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, name in enumerate(header):
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        known = _HEADERS.get(plain) or _BY_SCHEMA_KEY.get(recognised_key(name) or "")
        if known is not None:
            places.setdefault(known, place)
    if not places:
        fault = f"no column names people; it needs one of {', '.join(_FIELDS)}"
        raise ListHeaderError(url, "header", fault)
    return places


def _lines(blocks: Iterator[bytes]) -> Iterator[str]:
    # Lines keep their ends: a quoted cell may go over several.
    unfinished = b""
    for block in blocks:
        *whole, unfinished = (unfinished + block).split(b"\n")
        for line in whole:
            yield f"{line.decode()}\n"
    if unfinished:
        yield unfinished.decode()
