"""Validates a list in its place and reports what it contains, without any value."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import polars as pl

from mm_pipelines.concurrent import ordered_map
from mm_pipelines.identity import IDENTIFIERS, PhoneSpellings, count_phone_spellings, is_blank
from mm_pipelines.lists.consent import ConsentColumns
from mm_pipelines.lists.reading import FileRead
from mm_pipelines.lists.rows import AGREED, ROW_NUMBER
from mm_pipelines.lists.source import RowSource


@dataclass(frozen=True)
class ListReport:
    """The form and the counts of a list.

    Attributes:
        name: The source, without credentials.
        fingerprint: See `RowStream.fingerprint`.
        size: Bytes of all files; None for a query.
        files: Its files in the order of reading.
        rows: Data rows.
        rows_without_consent: Rows that are rejected because their person did not agree.
        rows_with_identifier: Of the other rows, those in which EMAIL or PHONE is not blank.
        ordered: Whether the rows have the same numbers each time the list is read.
        format: ``csv``, ``tsv``, ``txt``, ``ndjson``, ``parquet``, or a kind of database.
        gzipped: Whether the file is compressed.
        encoding: ``ascii``, ``utf-8``, ``windows-1252``, ``utf-16-le``…; None for Parquet.
        delimiter: The character between the fields; None for NDJSON and Parquet.
        columns: Schema key to the headers that it is read from.
        alternatives: Keys that several columns map to, with the headers in order of precedence.
        unrecognized: Headers that belong to no key; they are not read.
        consent: The columns that record consent.
        filled: Schema key to the number of rows in which it is not blank.
        phone_spellings: How the list writes bare phone numbers.
    """

    name: str
    fingerprint: str
    size: int | None
    files: tuple[FileRead, ...]
    rows: int
    rows_without_consent: int
    rows_with_identifier: int
    ordered: bool
    format: str
    gzipped: bool
    encoding: str | None
    delimiter: str | None
    columns: dict[str, tuple[str, ...]]
    alternatives: dict[str, tuple[str, ...]]
    unrecognized: tuple[str, ...]
    consent: ConsentColumns
    filled: dict[str, int]
    phone_spellings: PhoneSpellings

    @property
    def encoding_confidence(self) -> float:
        """The confidence of the least certain encoding, 0 to 1."""
        return min((file.encoding_confidence for file in self.files), default=1.0)

    @property
    def unread_names(self) -> tuple[str, ...]:
        """The name columns that are not used because an encoding is uncertain."""
        return tuple(dict.fromkeys(key for file in self.files for key in file.unread_names))

    def share(self, key: str) -> float:
        """The share of rows in which a key is not blank; 0 for a list without rows."""
        return self.filled.get(key, 0) / self.rows if self.rows else 0.0


def inspect_list(source: RowSource, *, default_country: str | None = None) -> ListReport:
    """Read a list to its end and report what it contains, in bounded memory.

    Args:
        source: The list.
        default_country: Alpha-2 code of rows without a COUNTRY.

    Raises:
        ListError: The list cannot be used. The error names the first fault.
    """
    reading = source.open()
    counts = _Counts(reading.columns.places)
    count = partial(count_phone_spellings, default_country=default_country)
    for spellings in ordered_map(count, counts.count_each(reading.chunks())):
        counts.phone_spellings += spellings
    return ListReport(
        name=source.name,
        fingerprint=reading.fingerprint,
        size=reading.size,
        files=tuple(reading.files),
        rows=counts.rows,
        rows_without_consent=counts.without_consent,
        rows_with_identifier=counts.with_identifier,
        ordered=reading.ordered,
        format=reading.format.name,
        gzipped=reading.format.gzipped,
        encoding=reading.encoding,
        delimiter=reading.delimiter,
        columns=reading.columns.headers,
        alternatives=reading.columns.alternatives,
        unrecognized=tuple(
            name for name in reading.columns.unrecognized if name not in reading.consent.headers
        ),
        consent=reading.consent,
        filled=counts.filled,
        phone_spellings=counts.phone_spellings,
    )


class _Counts:
    """Sums over the chunks of one list."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.rows = self.without_consent = self.with_identifier = 0
        self.filled = dict.fromkeys(keys, 0)
        self.phone_spellings = PhoneSpellings()
        self._identifiers = [key for key in IDENTIFIERS if key in self.filled]

    def count_each(self, chunks: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Yield the chunks and add what they contain."""
        for chunk in chunks:
            self._add(chunk)
            yield chunk

    def _add(self, chunk: pl.DataFrame) -> None:
        present = chunk.select(AGREED, ~is_blank(pl.exclude(ROW_NUMBER, AGREED)))
        identified = pl.any_horizontal(self._identifiers) & pl.col(AGREED)
        self.rows += chunk.height
        self.without_consent += present.select((~pl.col(AGREED)).sum()).item()
        self.with_identifier += present.select(identified.sum()).item()
        for key in self.filled:
            self.filled[key] += int(present[key].sum())
