"""A list validated in place: what it is and what it holds, without a value of any row."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.identity.blank import is_blank
from mm_pipelines.lists.reading import ROW_NUMBER, CustomerList


@dataclass(frozen=True)
class ListReport:
    """What a list is.

    Attributes:
        url: The list.
        fingerprint: SHA-256 of the file's bytes.
        size: Bytes.
        rows: Data rows.
        rows_with_identifier: Rows in which EMAIL or PHONE is not blank.
        format: ``csv``, ``tsv``, ``txt``, ``ndjson`` or ``parquet``.
        gzipped: Whether the file is packed.
        encoding: ``ascii``, ``utf-8``, ``windows-1252``, ``utf-16-le``…; None for Parquet.
        delimiter: What stands between the fields; None for NDJSON and Parquet.
        columns: Schema key to the headers that it is read from.
        alternatives: Keys that several columns map to, with the headers in order of precedence.
        unrecognised: Headers that belong to no key; they are not read.
        filled: Schema key to the number of rows in which it is not blank.
    """

    url: str
    fingerprint: str
    size: int | None
    rows: int
    rows_with_identifier: int
    format: str
    gzipped: bool
    encoding: str | None
    delimiter: str | None
    columns: dict[str, tuple[str, ...]]
    alternatives: dict[str, tuple[str, ...]]
    unrecognised: tuple[str, ...]
    filled: dict[str, int]

    def share(self, key: str) -> float:
        """The share of rows in which a key is not blank; 0 for a list without rows."""
        return self.filled.get(key, 0) / self.rows if self.rows else 0.0


def inspect_list(
    url: str, columns: Mapping[str, str] | None = None, *, encoding: str | None = None
) -> ListReport:
    """Read a list to its end and say what it is, in bounded memory.

    Raises:
        ListError: The list cannot be used; the first fault is named.
    """
    reading = CustomerList(url, columns, encoding=encoding)
    rows = with_identifier = 0
    filled = dict.fromkeys(reading.columns.places, 0)
    for chunk in reading.chunks():
        present = chunk.select(~is_blank(pl.exclude(ROW_NUMBER)))
        rows += chunk.height
        identified = [key for key in IDENTIFIERS if key in present.columns]
        with_identifier += present.select(pl.any_horizontal(identified).sum()).item()
        for key in filled:
            filled[key] += int(present[key].sum())
    return ListReport(
        url=url,
        fingerprint=reading.fingerprint,
        size=reading.size,
        rows=rows,
        rows_with_identifier=with_identifier,
        format=reading.format.name,
        gzipped=reading.format.gzipped,
        encoding=reading.encoding,
        delimiter=reading.delimiter,
        columns=reading.columns.headers,
        alternatives=reading.columns.alternatives,
        unrecognised=reading.columns.unrecognised,
        filled=filled,
    )
