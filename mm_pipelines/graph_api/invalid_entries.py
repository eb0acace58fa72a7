"""Finds the rows of a batch that Meta's samples of invalid entries name.

`invalid_entry_samples` is documented as an object and as an array of at most 100 strings
(docs/graph-api.md#uploading-users). The meaning of an object's keys and values is not documented: a
sample may quote a value of the row, the whole row, or its index. Samples are personal data and
never leave this module.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

# A batch has at most 10,000 rows.
_INDEX = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class FoundSamples:
    """Positions from 0, ascending, and the number of samples that fit no row or too many."""

    positions: tuple[int, ...]
    not_found: int


def positions_of_samples(
    rows: pl.DataFrame, documents: Sequence[Any], *, at_most: int
) -> FoundSamples:
    """Find the rows that the samples name.

    Args:
        rows: The batch, only the columns that were sent.
        documents: The samples: `{}`, `[]`, an object, an array, or None.
        at_most: The number of rows that Meta calls invalid. A value that many rows share (a
            country, a name) counts only while it names no more rows than that.
    """
    samples = list(dict.fromkeys(s for document in documents for s in _samples(document)))
    if not samples:
        return FoundSamples((), 0)
    holders = _holders(rows, {value for sample in samples for value in sample.values()})
    certain: set[int] = set()
    shared: list[set[int]] = []
    not_found = 0
    for sample in samples:
        meant = sample.rows(holders, rows.height)
        if len(meant) == 1:
            certain |= meant
        elif meant:
            shared.append(meant)
        else:
            not_found += 1
    for meant in sorted(shared, key=len):
        if len(certain | meant) <= at_most:
            certain |= meant
        else:
            not_found += 1
    return FoundSamples(tuple(sorted(certain)), not_found)


@dataclass(frozen=True, slots=True)
class _Sample:
    """One sample: the texts that may quote its row, and the one that may be its index."""

    quotes: tuple[str, ...]
    index: str

    def values(self) -> set[str]:
        """Every value of a row that the sample may quote."""
        return {value for text in self.quotes for row in _readings(text) for value in row}

    def rows(self, holders: Mapping[str, set[int]], height: int) -> set[int]:
        """The rows that contain all quoted values; the index decides among them, or alone."""
        quoted: set[int] = set()
        for row in (row for text in self.quotes for row in _readings(text) if row):
            quoted = set.intersection(*(holders.get(value, set()) for value in row))
            if quoted:
                break
        if _INDEX.fullmatch(self.index) and int(self.index) < height:
            position = int(self.index)
            if not quoted or position in quoted:
                return {position}
        return quoted


def _samples(document: Any) -> Iterator[_Sample]:
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield _Sample((_as_text(value), str(key)), str(key))
    elif isinstance(document, list):
        for value in document:
            yield _Sample((_as_text(value),), _as_text(value))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _readings(text: str) -> Iterator[list[str]]:
    """The readings of a text: one value, a row as JSON, a row joined by commas."""
    if text:
        yield [text]
    if text.startswith("["):
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, list):
            yield [str(value) for value in row if value not in ("", None)]
    yield [piece for piece in text.split(",") if piece]


def _holders(rows: pl.DataFrame, values: set[str]) -> dict[str, set[int]]:
    """The positions of the rows that contain each value."""
    holders: dict[str, set[int]] = {}
    wanted = pl.Series(sorted(values), dtype=pl.String)
    for name in rows.columns:
        column = rows[name].cast(pl.String)
        hits = column.is_in(wanted.implode()).fill_null(value=False)
        for position in hits.arg_true().to_list():
            holders.setdefault(column[position], set()).add(position)
    return holders
