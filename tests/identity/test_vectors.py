"""Meta's own examples, and those that follow from libphonenumber, to the letter."""

import csv
import hashlib
from pathlib import Path

import polars as pl
import pytest

from mm_pipelines.identity import normalize, normalize_and_hash

with (Path(__file__).parent / "vectors.csv").open(encoding="utf-8", newline="") as file:
    VECTORS = list(csv.DictReader(file))


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda vector: f"{vector['key']} {vector['source']}"
)
@pytest.mark.parametrize("country_from", ["row", "audience"])
def test_a_published_example_gives_its_published_value(
    vector: dict[str, str], country_from: str
) -> None:
    key, country = vector["key"], vector["country"]
    cells = {key: [vector["input"]]}
    if country and country_from == "row":
        cells["COUNTRY"] = [country]
    default = country if country_from == "audience" else None
    frame = pl.DataFrame(cells)

    assert normalize(frame, default_country=default)[key].to_list() == [vector["normalized"]]
    assert normalize_and_hash(frame, default_country=default)[key].to_list() == [vector["uploaded"]]


@pytest.mark.parametrize(
    "vector",
    # An external id is sent as it is, whatever it looks like.
    [vector for vector in VECTORS if vector["key"] != "EXTERN_ID"],
    ids=lambda vector: f"{vector['key']} {vector['source']}",
)
def test_a_value_hashed_beforehand_passes_through_in_lower_case(vector: dict[str, str]) -> None:
    digest = hashlib.sha256(vector["normalized"].encode()).hexdigest()
    frame = pl.DataFrame(
        {vector["key"]: [digest, digest.upper(), f"  {digest}\t", f"\xa0{digest}"]}
    )

    assert normalize_and_hash(frame)[vector["key"]].to_list() == [digest] * 4
