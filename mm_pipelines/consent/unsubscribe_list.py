"""Reads a day's opt-out list: comma, semicolon or tab separated text, gzipped or not.

The columns are ``phone``, ``email``, ``psid`` and ``subscriber_token``, each optional; other
columns are ignored. The content of a row never fails the list: a row without an identifier is
recorded as rejected.
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
from mm_pipelines.lists.file_bytes import Bytes
from mm_pipelines.lists.headers import recognized_key

# Records the state in which a list was read.
_RECORD = text("""
insert into mm.unsubscribe_list (page_id, list_day, mark, fingerprint, row_count)
values (:page_id, :list_day, :mark, :fingerprint, :row_count)
on conflict (page_id, list_day) do update
set mark = excluded.mark, fingerprint = excluded.fingerprint, row_count = excluded.row_count,
    read_at = now()
""")

# Returns the marks of the lists that were read.
_MARKS = text("""
select list_day, mark from mm.unsubscribe_list
where page_id = :page_id and list_day >= :since
""")


@dataclass(frozen=True)
class ListRead:
    """The state in which a list was read.

    Attributes:
        mark: Size and time from the file system; changes when the list does.
        fingerprint: SHA-256 of the bytes.
    """

    mark: str
    fingerprint: str
    row_count: int


def record(connection: Connection, page_id: str, list_day: date, read: ListRead) -> None:
    """Record in the caller's transaction that a list was read."""
    connection.execute(_RECORD, {"page_id": page_id, "list_day": list_day, **vars(read)})


def marks(connection: Connection, page_id: str, since: date) -> Mapping[date, str]:
    """Return the marks of the lists that were read, by day."""
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
    """A parsed opt-out list.

    Attributes:
        fingerprint: SHA-256 of the file's bytes.
        requests: One per row with an identifier, with the row's keyed digest.
        rejected: The keyed digests of the rows without an identifier.
    """

    fingerprint: str
    requests: list[NewRequest] = field(repr=False)
    rejected: list[bytes] = field(repr=False)

    @property
    def rows(self) -> int:
        """The number of rows, without blank lines."""
        return len(self.requests) + len(self.rejected)


def read_unsubscribe_list(url: str, key: bytes) -> UnsubscribeList:
    """Read an opt-out list.

    Args:
        url: A local path or any fsspec URL.
        key: Makes the row digests. They recognize a row when the list is read again, without
            revealing it.

    Raises:
        ListMissingError: The file does not exist.
        ListUnreadableError: The file cannot be read or is not text.
        ListHeaderError: No column contains identifiers.
        ListRowError: A quote is broken, so the end of the row is unknown.
    """
    source = Bytes(url)
    lines = _lines(Text(url, source.blocks).blocks())
    header = next(lines, "")
    delimiter = max(",;\t", key=header.count)
    columns = _columns(url, next(_records(url, iter([header]), delimiter), []))
    requests, rejected = [], []
    for number, cells in enumerate(_records(url, lines, delimiter), start=1):
        if not any(cell.strip() for cell in cells):
            continue
        named = {
            name: value
            for name, index in columns.items()
            if index < len(cells) and (value := _storable(cells[index]))
        }
        if named:
            content = "\0".join(named.get(name, "") for name in _FIELDS)
            digest = hmac.digest(key, content.encode(), "sha256")
            requests.append(_request(named, digest))
        else:
            rejected.append(hmac.digest(key, f"row {number}".encode(), "sha256"))
    return UnsubscribeList(source.fingerprint, requests, rejected)


def _records(url: str, lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    # Strict, because an unclosed quote would merge all later rows into one.
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
    return cell.replace("\0", "").strip()  # PostgreSQL text cannot contain NUL


def _request(named: dict[str, str], digest: bytes) -> NewRequest:
    return NewRequest(
        phone=named.get("phone"),
        email=named.get("email"),
        psid=named.get("psid"),
        subscriber_token=named.get("subscriber_token"),
        row_digest=digest,
    )


def _columns(url: str, header: list[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for index, name in enumerate(header):
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        known = _HEADERS.get(plain) or _BY_SCHEMA_KEY.get(recognized_key(name) or "")
        if known is not None:
            columns.setdefault(known, index)
    if not columns:
        fault = f"no column contains identifiers; add one of {', '.join(_FIELDS)}"
        raise ListHeaderError(url, "header", fault)
    return columns


def _lines(blocks: Iterator[bytes]) -> Iterator[str]:
    # Lines keep their ends, because a quoted cell may contain several.
    unfinished = b""
    for block in blocks:
        *whole, unfinished = (unfinished + block).split(b"\n")
        for line in whole:
            yield f"{line.decode()}\n"
    if unfinished:
        yield unfinished.decode()
