"""Columns of phone numbers against ``phonenumbers``, value by value."""

import random
from collections.abc import Iterator

import phonenumbers
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneMetadata, PhoneNumberType

from mm_pipelines.identity.phone import normalise_phone, normalise_phones

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
SEPARATORS = (" ", "-", ".", "(", ")", "/", "  ", " - ", ") ")
BEFORE = ("Tel: ", "tel:", "(", "ph ", "x ", "Call ", "'", "=", "M. ", "\u200e")
BEHIND = (
    " ext 12", " x12", "ext.5", " ext. 89", ";ext=3", " #4", " extension 77", ",,3", "/x5", ".",
    ",", " (home)", "x", " ext", "#", " EXT 7", ", ext: 12", "*2", ";phone-context=+1",
)  # fmt: skip
OTHER_DIGITS = (
    str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩"),
    str.maketrans("0123456789", "".join(chr(0xFF10 + digit) for digit in range(10))),
    str.maketrans("0123456789", "०१२३४५६७८९"),
)
OTHER_SIGNS = str.maketrans(" -+()", "\xa0\u2010\uff0b\uff08\uff09")


def numbers(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Numbers of all regions and types, right and wrong, in every way of writing them."""
    chance = random.Random(seed)
    examples = {
        region: [
            phonenumbers.national_significant_number(number)
            for kind in PhoneNumberType.values()
            if (number := phonenumbers.example_number_for_type(region, kind))
        ]
        for region in REGIONS
    }
    for _ in range(count):
        region = chance.choice(REGIONS)
        digits = _national_digits(chance, examples[region])
        text = chance.choice(_prefixes(region)) + digits
        if chance.random() < 0.6:
            text = "".join(
                sign + (chance.choice(SEPARATORS) if chance.random() < 0.3 else "") for sign in text
            )
        if chance.random() < 0.1:
            text = chance.choice(BEFORE) + text
        if chance.random() < 0.1:
            text += chance.choice(BEHIND)
        if chance.random() < 0.03:
            text = text.translate(chance.choice(OTHER_DIGITS))
        if chance.random() < 0.03:
            text = text.translate(OTHER_SIGNS)
        if chance.random() < 0.02:
            text = text.replace("2", chance.choice("ABCabc"))
        yield text, chance.choice((region, region, region, "", chance.choice(REGIONS), "US", "AQ"))


def _national_digits(chance: random.Random, examples: list[str]) -> str:
    def some(count: int) -> str:
        return "".join(chance.choices("0123456789", k=count))

    if not examples or chance.random() < 0.5:
        return some(chance.randint(1, 16))
    example = chance.choice(examples)
    return example[: max(2, len(example) - chance.choice((2, 4, 6)))] + some(chance.randint(2, 7))


def _prefixes(region: str) -> tuple[str, ...]:
    metadata = PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    code = metadata.country_code
    return (
        "", "", "", "0", "1", "8", "00", "+", "+0", f"+{code}", f"+{code}(0)", f"00{code}",
        f"{code}", f"011{code}", metadata.national_prefix or "",
    )  # fmt: skip


def assert_equal_to_reference(cells: list[tuple[str, str]]) -> None:
    values = pl.Series([value for value, _ in cells], dtype=pl.String)
    regions = pl.Series([region.lower() for _, region in cells], dtype=pl.String)
    columnar = normalise_phones(values, regions)
    expected = [normalise_phone(value, region) for value, region in cells]
    different = [
        (value, region, wanted, got)
        for (value, region), wanted, got in zip(cells, expected, columnar, strict=True)
        if wanted != got
    ]
    assert not different, different[:10]


def test_columns_agree_with_phonenumbers_on_200_000_numbers_of_all_regions() -> None:
    assert_equal_to_reference(list(numbers(200_000, seed=20261121)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_columns_agree_with_phonenumbers_on_two_million_numbers() -> None:
    for seed in range(10):
        assert_equal_to_reference(list(numbers(200_000, seed)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(
                alphabet="0123456789+ ().-/xXet#,;:A\xa0\u0663\uff0b", min_size=1, max_size=24
            ).filter(lambda text: text.strip(" ().-/") != ""),
            st.sampled_from(["", "US", "GB", "DE", "IT", "BR", "AR", "MX", "AU", "RU", "JP", "SM"]),
        ),
        min_size=1,
        max_size=80,
    )
)
def test_columns_agree_with_phonenumbers_on_whatever_is_written(
    cells: list[tuple[str, str]],
) -> None:
    filled = [(value, region) for value, region in cells if value.strip("- \xa0") != ""]
    if filled:
        assert_equal_to_reference(filled)


@pytest.mark.parametrize(
    ("value", "region", "expected"),
    [
        ("15559876543", "", "15559876543"),
        ("84912345678", "US", "84912345678"),
        ("0044 20 7946 0958", "", "442079460958"),
        ("0044 20 7946 0958", "US", "442079460958"),
        ("011 44 20 7946 0958", "US", "442079460958"),
        ("(650) 555-1212", "CA", "16505551212"),
        ("1-800-FLOWERS", "US", "18003569377"),
        ("+1800FLOWERS", "", "18003569377"),
        ("٠٢٠ ٧٩٤٦ ٠٩٥٨", "GB", "442079460958"),
        ("06 698 12345", "IT", "390669812345"),
        ("8 (495) 123-45-67", "RU", "74951234567"),
        ("011 15 2345-6789", "AR", "5491123456789"),
        ("020 7946 0958", "", None),
        ("555-1212", "US", None),
        ("call me", "US", None),
        ("12", "US", None),
        ("0" * 300 + "2079460958", "GB", None),
    ],
)
def test_a_number_is_read_as_libphonenumber_reads_it(
    value: str, region: str, expected: str | None
) -> None:
    assert normalise_phone(value, region) == expected
    columnar = normalise_phones(pl.Series([value]), pl.Series([region.lower()]))
    assert columnar.to_list() == [expected]


def test_no_numbers_are_no_trouble() -> None:
    nothing = pl.Series([], dtype=pl.String)
    assert normalise_phones(nothing, nothing).to_list() == []
    blank = normalise_phones(pl.Series([None, "", " ", "n/a"]), pl.Series(["", "us", "", ""]))
    assert blank.to_list() == ["", "", "", ""]
