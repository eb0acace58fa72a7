"""Properties that hold for every key and every value."""

import hashlib
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_pipelines.identity import COLUMNS, KEYS, DistinctCache, names, normalize, normalize_and_hash
from mm_pipelines.identity.email import email

EMPTY = hashlib.sha256(b"").hexdigest()
PADDING = st.sampled_from(["", " ", "\t", "\xa0", "\ufeff", "\u200b", " \u3000"])
CASED = st.text(
    st.sampled_from("abcxyzABCXYZéÉñÑüÜøØçÇжЖłŁőŐ") | st.sampled_from(" '-.09@_정李"),
    max_size=12,
)
"""Letters whose case can be changed there and back; ß, İ or a final ς cannot in any program."""

CELL = st.text(max_size=20) | CASED | st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
VALUES = st.lists(CELL, min_size=1, max_size=12)


def of(key: str, values: list[str], country: str | None = None) -> list[str | None]:
    return normalize(pl.DataFrame({key: values}), default_country=country)[key].to_list()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("country", [None, "US", "DE"])
@settings(max_examples=12, deadline=None)
@given(values=VALUES)
def test_normalizing_twice_changes_nothing(
    key: str, country: str | None, values: list[str]
) -> None:
    once = [value or "" for value in of(key, values, country)]
    assert of(key, once, country) == once


@pytest.mark.parametrize("key", sorted(set(KEYS) - {"EXTERN_ID", "MADID"}))
@settings(max_examples=12, deadline=None)
@given(value=CASED, before=PADDING, behind=PADDING)
def test_case_padding_and_unicode_form_do_not_matter(
    key: str, value: str, before: str, behind: str
) -> None:
    variants = [
        value,
        before + value + behind,
        value.upper(),
        value.lower(),
        unicodedata.normalize("NFD", value),
        unicodedata.normalize("NFC", value),
    ]
    assert len(set(of(key, variants, "US"))) == 1


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=12, deadline=None)
@given(values=VALUES)
def test_the_hash_of_nothing_is_never_uploaded(key: str, values: list[str]) -> None:
    uploaded = normalize_and_hash(pl.DataFrame({key: [*values, "", " ", None, "NULL"]}))[key]
    assert EMPTY not in [value for value in uploaded if EMPTY not in values]
    assert uploaded.to_list()[-4:] == [""] * 4


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_no_row_is_lost_or_moved(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(COLUMNS), min_size=1, unique=True))
    height = data.draw(st.integers(1, 8))
    cells = {key: data.draw(st.lists(CELL, min_size=height, max_size=height)) for key in keys}
    whole = normalize_and_hash(pl.DataFrame(cells), default_country="GB")

    assert whole.height == height or keys == ["DOB"]
    for row in range(height):
        alone = normalize_and_hash(
            pl.DataFrame({key: [values[row]] for key, values in cells.items()}),
            default_country="GB",
        )
        assert alone.row(0) == whole.row(row)


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=12, deadline=None)
@given(values=VALUES)
def test_an_upload_is_the_hash_of_the_normalized_value(key: str, values: list[str]) -> None:
    frame = pl.DataFrame({key: values})
    normalized, uploaded = normalize(frame)[key], normalize_and_hash(frame)[key]
    for value, upload in zip(normalized, uploaded, strict=True):
        if not value or key in ("MADID", "EXTERN_ID") or len(value) == 64:
            continue
        assert upload == hashlib.sha256(value.encode()).hexdigest()


@pytest.mark.parametrize("key", ["FN", "LN", "EMAIL"])
def test_the_fast_path_of_plain_values_equals_the_rule(key: str) -> None:
    """Each sign of the common scripts, alone and within a value, as the whole rule has it."""
    rule = {"FN": names.name, "LN": names.name, "EMAIL": email}[key]
    signs = [chr(code) for code in range(0x2100) if chr(code).isprintable()]
    form = "{}" if key != "EMAIL" else "{}@b.cd"
    values = [
        form.format(value) for sign in signs for value in (sign, f"a{sign}b", f"{sign}\u0301")
    ]
    cells = pl.DataFrame({key: values})
    by_the_rule = cells.select(rule(pl.col(key))).to_series()
    assert normalize(cells)[key].to_list() == by_the_rule.to_list()


@given(chunks=st.lists(VALUES, max_size=4))
@pytest.mark.parametrize("key", ["FN", "ZIP", "COUNTRY"])
@settings(deadline=None)
def test_a_cached_result_is_what_the_rule_gives(key: str, chunks: list[list[str]]) -> None:
    cache = DistinctCache()
    for values in chunks:
        frame = pl.DataFrame({key: values})
        alone = normalize_and_hash(frame, default_country="US")
        assert normalize_and_hash(frame, default_country="US", cache=cache).equals(alone)
