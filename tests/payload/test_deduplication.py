"""Deduplication of hashed rows, against a plain one in memory."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm_pipelines.payload import deduplication
from mm_pipelines.payload.deduplication import Deduplicator, payload_schema, with_person_key

KEYS = ("EMAIL", "PHONE", "FN", "LN")
Row = tuple[str, str, str, str, int]


def deduplicate(chunks: Sequence[pl.DataFrame], scratch: Path) -> tuple[list[Row], int]:
    people = Deduplicator(KEYS, scratch)
    for chunk in chunks:
        people.add(chunk)
    people.merge()
    found = list(people.people())
    assert all(frame.schema == payload_schema(KEYS) for frame in found)
    return [row for frame in found for row in frame.rows()], people.merged


def naive(rows: Sequence[Row]) -> list[Row]:
    """The fullest row of each person, its blanks filled from the person's other rows."""
    rows_of: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row[:4].count(""), row[4])):
        rows_of.setdefault((row[0], row[1]), []).append(row)
    people: list[tuple[str, ...]] = [
        (*identity, *(next(filter(None, values), "") for values in zip(*others, strict=True)))
        for identity, same in rows_of.items()
        for others in [[row[2:4] for row in same]]
    ]
    numbers = [same[0][4] for same in rows_of.values()]
    merged: list[Any] = [(*person, number) for person, number in zip(people, numbers, strict=True)]
    return sorted(merged, key=lambda row: row[4])


def frames(rows: Sequence[Row], size: int) -> list[pl.DataFrame]:
    schema = {**dict.fromkeys(KEYS, pl.String), "row_number": pl.Int64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return [table[start : start + size] for start in range(0, len(rows), size)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.tuples(*[st.sampled_from(["", "a", "b", "c"])] * 4), max_size=40),
    size=st.integers(1, 40),
    keys_collide=st.booleans(),
    bytes_in_memory=st.sampled_from([0, 1000, 1 << 30]),
)
def test_people_are_the_same_as_in_memory(
    values: list[tuple[str, str, str, str]],
    size: int,
    keys_collide: bool,
    bytes_in_memory: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rows: list[Row] = [(*value, number) for number, value in enumerate(values, start=1)]
    chunks = [with_person_key(chunk, ("EMAIL", "PHONE")) for chunk in frames(rows, size)]
    if keys_collide:
        chunks = [chunk.with_columns(pl.col("person") % 2) for chunk in chunks]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deduplication, "BYTES_IN_MEMORY", bytes_in_memory)
        people, merged = deduplicate(chunks, tmp_path_factory.mktemp("scratch"))

    assert people == naive(rows)
    assert merged == len(rows) - len(people)


PEAK = """
import re, sys
from pathlib import Path
import polars as pl
from mm_pipelines.payload.deduplication import Deduplicator, with_person_key

rows, scratch = int(sys.argv[1]), Path(sys.argv[2])
people = Deduplicator(("EMAIL", "FN", "LN"), scratch)
for start in range(0, rows, 100_000):
    number = pl.int_range(start, start + 100_000, eager=True)
    person = (number % (rows // 2)).cast(pl.String).str.pad_start(32, "0")
    half = pl.when(number < rows // 2)
    chunk = pl.select(
        EMAIL=person + person,
        FN=half.then(pl.lit("")).otherwise(person + person),
        LN=half.then(person + person).otherwise(pl.lit("")),
        row_number=number + 1,
    )
    people.add(with_person_key(chunk, ("EMAIL",)))
people.merge()
written = 0
for frame in people.people():
    assert frame.filter((pl.col("FN") == "") | (pl.col("LN") == "")).is_empty()
    written += frame.height
assert written == people.merged == rows // 2
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) // 1024)
"""


@pytest.mark.slow
def test_a_list_with_every_person_twice_fits_in_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PEAK, "4000000", str(tmp_path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(answer) < 1200
