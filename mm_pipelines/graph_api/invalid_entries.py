"""Which rows of a batch Meta's samples of invalid entries mean.

`invalid_entry_samples` is documented as an object and as an array, of strings, at most 100
(graph-api-facts 1.6); what an object's keys and values are is not. A sample may quote a value of
the row, the whole row, or its index. The samples are people's data and never leave this module.
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
    """Positions from 0, ascending; and how many samples fit no row, or too many."""

    positions: tuple[int, ...]
    not_found: int


def positions_of_samples(
    rows: pl.DataFrame, documents: Sequence[Any], *, at_most: int
) -> FoundSamples:
    """The rows that the samples mean.

    Args:
        rows: the batch, only the columns that were sent.
        documents: the samples as they came: `{}`, `[]`, an object, an array, or None.
        at_most: how many rows Meta calls invalid. A value that many rows share (a country, a
            name) is believed only while no more rows than that are meant.
    """
    samples = list(dict.fromkeys(s for document in documents for s in _samples(document)))
    if not samples:
        return FoundSamples((), 0)
    values = {part for sample in samples for text in sample for part in _parts(text)}
    holders = _holders(rows, values)
    certain: set[int] = set()
    shared: list[set[int]] = []
    not_found = 0
    for sample in samples:
        meant = _rows_of(sample, holders, rows.height)
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


def _samples(document: Any) -> Iterator[tuple[str, ...]]:
    """Each sample as the texts that may name its row: an object's value, then its key."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield (_as_text(value), str(key))
    elif isinstance(document, list):
        for value in document:
            yield (_as_text(value),)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parts(text: str) -> list[str]:
    """The values that a text quotes: a row as JSON, a row joined by commas, or one value."""
    if text.startswith("["):
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if isinstance(row, list):
            return [str(value) for value in row if value not in ("", None)]
    return [part for part in (piece.strip() for piece in text.split(",")) if part]


def _holders(rows: pl.DataFrame, values: set[str]) -> dict[str, set[int]]:
    """For every value that stands in the batch: the positions of its rows."""
    holders: dict[str, set[int]] = {}
    wanted = pl.Series(sorted(values), dtype=pl.String)
    for name in rows.columns:
        column = rows[name].cast(pl.String)
        hits = column.is_in(wanted.implode()).fill_null(value=False)
        for position in hits.arg_true().to_list():
            holders.setdefault(column[position], set()).add(position)
    return holders


def _rows_of(sample: tuple[str, ...], holders: dict[str, set[int]], height: int) -> set[int]:
    """The rows that hold all the values quoted; failing that, the row of the index quoted."""
    for text in sample:
        quoted = [holders.get(part, set()) for part in _parts(text)]
        if meant := set.intersection(*quoted) if quoted else set():
            return meant
    for text in reversed(sample):
        if _INDEX.fullmatch(text) and int(text) < height:
            return {int(text)}
    return set()
