"""SQL over frames that are larger than memory."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from mm_pipelines.large_frames import LargeFrames, SpillError


@pytest.fixture
def frames(tmp_path: Path) -> Iterator[LargeFrames]:
    with closing(LargeFrames(tmp_path, memory_limit="64MB")) as frames:
        yield frames


def test_what_exceeds_the_memory_limit_goes_to_the_scratch_folder(
    frames: LargeFrames, tmp_path: Path
) -> None:
    number = pl.int_range(0, 2_000_000, eager=True).alias("number")
    frames.load("people", number.to_frame().lazy().with_columns(name=pl.format("{}", "number")))
    for first in (0, 1_000_000):
        rows = number[first : first + 1_000_000].to_frame()
        frames.insert("wide", rows.with_columns(name=pl.col("number").cast(pl.String)))
    found = frames.fetch("select count(*) as rows from people semi join wide using (number, name)")
    assert found.item() == 2_000_000
    assert list((tmp_path / "duckdb").iterdir())
    frames.close()
    assert not list((tmp_path / "duckdb").rglob("*.tmp"))


@pytest.mark.parametrize(
    "query",
    [
        "select cast('findme' as integer) as number",
        "from read_parquet('https://findme.invalid/people.parquet')",
        "from read_parquet('s3://findme/people.parquet')",
    ],
)
def test_an_error_quotes_no_value_and_nothing_is_downloaded(
    frames: LargeFrames, query: str
) -> None:
    with pytest.raises(SpillError, match="Check the free space below MM_HOME") as raised:
        frames.fetch(query)
    assert "findme" not in str(raised.value)
    assert raised.value.__cause__ is None
