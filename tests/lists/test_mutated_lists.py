"""Lists that were damaged anywhere end in counted rows or a clear error, never a wrong column."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mm_pipelines.lists import CustomerList, FileSource, ListError, inspect_list

COLUMNS = {"EMAIL": "Email", "PHONE": "Phone", "FN": "First Name"}
MARKS = {"EMAIL": "@x.co", "PHONE": "+1650555", "FN": "Nam."}
"""A part of every cell of a column that no cell of another column has."""

Row = tuple[str, str, str]
Damage = tuple[str, float, float, bytes]

rows = st.lists(
    st.tuples(
        st.sampled_from(["", "e1@x.co", "zoë2@x.co", "e.3+tag@x.co"]),
        st.sampled_from(["", "+16505551212", "+1650555-12 13"]),
        st.sampled_from(["", "Nam.", "Nam., 2", 'Nam. "3"', "Nam.\n4", "Nam.é", "Nam.;5\t|"]),
    ),
    min_size=1,
    max_size=8,
)
damages = st.tuples(
    st.sampled_from(["insert", "replace", "delete", "delete slice", "repeat slice", "cut"]),
    st.floats(0, 1),
    st.floats(0, 0.3),
    st.sampled_from([b'"', b",", b";", b"\t", b"|", b"\n", b"\r", b"\0", b"\xff", b"\xe9", b"a"]),
)


def delimited(table: list[Row], delimiter: str, *, quote_all: bool) -> str:
    def cell(value: str) -> str:
        quoted = quote_all or any(sign in value for sign in '"\n,;\t|')
        return '"' + value.replace('"', '""') + '"' if quoted else value

    lines = [tuple(COLUMNS.values()), *table]
    return "".join(delimiter.join(map(cell, line)) + "\n" for line in lines)


def ndjson(table: list[Row]) -> str:
    return "".join(
        json.dumps(dict(zip(COLUMNS.values(), row, strict=True)), ensure_ascii=False) + "\n"
        for row in table
    )


def damaged(content: bytes, damage: Damage) -> bytes:
    kind, start, length, inserted = damage
    first = int(start * len(content))
    last = first + int(length * len(content))
    before, piece, after = content[:first], content[first:last], content[last:]
    rest = content[first:]
    return {
        "insert": before + inserted + rest,
        "replace": before + inserted + rest[1:],
        "delete": before + rest[1:],
        "delete slice": before + after,
        "repeat slice": before + piece + piece + after,
        "cut": before,
    }[kind]


def read(path: Path) -> list[pl.DataFrame] | ListError:
    try:
        report = inspect_list(FileSource(str(path)))
        frames = list(CustomerList(str(path)).chunks())
    except ListError as error:
        return error
    numbers = [number for frame in frames for number in frame["row_number"]]
    assert numbers == list(range(1, report.rows + 1))
    return frames


def assert_no_value_is_in_another_column(frames: list[pl.DataFrame]) -> None:
    for frame in frames:
        for key, mark in MARKS.items():
            for other in (name for name in MARKS if name != key and name in frame.columns):
                assert not frame[other].str.contains(mark, literal=True).any(), (key, other)


@pytest.mark.parametrize(
    "examples", [150, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_damaged_list_ends_in_counted_rows_or_a_clear_error(
    tmp_path: Path, examples: int
) -> None:
    outcomes = {True: 0, False: 0}

    @settings(
        max_examples=examples,
        derandomize=examples < 1_000,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        table=rows,
        form=st.sampled_from([",", ";", "\t", "|", "ndjson"]),
        quote_all=st.booleans(),
        encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
        gzipped=st.sampled_from([None, None, "before", "after"]),
        damage=damages,
    )
    def holds(
        table: list[Row],
        form: str,
        quote_all: bool,
        encoding: str,
        gzipped: str | None,
        damage: Damage,
    ) -> None:
        # Without a slice, JSON or a cell with a delimiter can be a sound list of other values.
        divided = form == "ndjson" or any(form in cell for row in table for cell in row)
        assume(not divided or "slice" not in damage[0])
        text = ndjson(table) if form == "ndjson" else delimited(table, form, quote_all=quote_all)
        content = text.encode(encoding)
        if gzipped == "before":
            content = damaged(gzip.compress(content, mtime=0), damage)
        else:
            content = damaged(content, damage)
            content = gzip.compress(content, mtime=0) if gzipped else content
        ending = ("ndjson" if form == "ndjson" else "csv") + (".gz" if gzipped else "")
        path = tmp_path / f"list.{ending}"
        path.write_bytes(content)
        outcome = read(path)
        if isinstance(outcome, ListError):
            assert str(outcome).startswith(f"{path}: ")
            assert not any(mark in str(outcome) for mark in MARKS.values())
        else:
            assert_no_value_is_in_another_column(outcome)
        outcomes[isinstance(outcome, ListError)] += 1

    holds()
    assert min(outcomes.values()) > examples // 20
