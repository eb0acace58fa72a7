"""The sample lists, against a count that shares no code with ours."""

import hashlib
import importlib.util
import sys
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from mm_pipelines.config import load_config
from mm_pipelines.lists import inspect_list
from mm_pipelines.lists.configured import customer_source
from mm_pipelines.payload import build_hashed_payload
from mm_pipelines.storage import Storage

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIG = load_config(EXAMPLES / "mm.yaml")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


independent = _module(Path(__file__).with_name("independent_count.py"))
LISTS = [(sample, day) for sample in independent.SAMPLES for day in independent.DAYS]


@pytest.mark.parametrize(
    ("sample", "day"), LISTS, ids=[f"{sample.audience} {day}" for sample, day in LISTS]
)
def test_our_count_of_a_sample_list_is_the_independent_one(
    sample: object, day: str, tmp_path: Path
) -> None:
    expected = independent.count(sample, day)
    audience = CONFIG.audiences[sample.audience]  # type: ignore[attr-defined]
    source = customer_source(
        CONFIG,
        sample.audience,  # type: ignore[attr-defined]
        date.fromisoformat(day),
    )
    report = inspect_list(source)
    built = build_hashed_payload(
        source,
        Storage(str(tmp_path)),
        folder="hashed",
        default_country=audience.default_country,
        expected_fingerprint=report.fingerprint,
    )

    assert (built.read, built.rejected, built.merged) == (
        expected.read,
        expected.rejected,
        expected.merged,
    )
    assert report.rows == expected.read
    assert built.rejection_reasons == expected.reasons
    assert set(pl.read_parquet(built.url).select("EMAIL", "PHONE").iter_rows()) == {
        tuple(hashlib.sha256(value.encode()).hexdigest() if value else "" for value in person)
        for person in expected.people
    }
    assert len(expected.people) > 3000


def test_the_independent_count_of_all_sample_lists_is_that_of_the_changelog() -> None:
    counts = [independent.count(sample, day) for sample, day in LISTS]
    assert sum(count.read for count in counts) == 42_867
    assert sum(count.rejected for count in counts) == 971
    assert sum(count.merged for count in counts) == 1_593


def test_the_generator_makes_the_committed_lists_again(tmp_path: Path) -> None:
    generator = _module(EXAMPLES / "make_lists.py")
    for sample in generator.LISTS:
        generator.write(sample, tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    committed = EXAMPLES / "customers"
    assert made == {
        path.relative_to(committed): path.read_bytes() for path in committed.rglob("*.*")
    }


def test_people_stay_from_day_to_day() -> None:
    for sample in independent.SAMPLES:
        days = [independent.count(sample, day).people for day in independent.DAYS]
        for before, after in pairwise(days):
            assert 0.3 * len(after) < len(before & after) < 0.9 * len(after)
