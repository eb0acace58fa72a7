"""Columns of phone numbers against ``phonenumbers``, value by value."""

import random
from collections import Counter
from collections.abc import Iterator

import phonenumbers
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneMetadata, PhoneNumberType

from mm_pipelines.identity import normalize
from mm_pipelines.identity.phone import (
    PhoneConvention,
    PhoneSpellings,
    count_phone_spellings,
    normalize_phone,
    normalize_phones,
    phone_readings,
    read_phone,
)
from mm_pipelines.identity.phone.reference import Spelling, bare_spelling

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
    columnar = phone_readings(values, regions)
    expected = [read_phone(value, region) for value, region in cells]
    different = [
        (cell, wanted, got)
        for cell, wanted, got in zip(cells, expected, columnar.iter_rows(), strict=True)
        if (wanted.international, wanted.national, wanted.libphonenumber) != got
    ]
    assert not different, different[:10]

    counts = count_phone_spellings(values, regions)
    spellings = Counter((region, bare_spelling(value, region)) for value, region in cells)
    assert counts.international == _of_spelling(spellings, "international")
    assert counts.national == _of_spelling(spellings, "national")
    disputed = (cell for cell, wanted in zip(cells, expected, strict=True) if wanted.disputed)
    assert counts.disputed == Counter(region for _, region in disputed)


def _of_spelling(counts: Counter[tuple[str, Spelling | None]], spelling: Spelling) -> Counter[str]:
    return Counter({region: count for (region, of), count in counts.items() if of == spelling})


@pytest.mark.no_cover  # its loop over phonenumbers costs most of what coverage costs
def test_columns_agree_with_phonenumbers_on_50_000_numbers_of_all_regions() -> None:
    assert_equal_to_reference(list(numbers(50_000, seed=20261121)))


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
def test_columns_agree_with_phonenumbers_on_any_text(
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
    assert normalize_phone(value, region) == expected
    columnar = normalize_phones(pl.Series([value]), pl.Series([region.lower()]))
    assert columnar.to_list() == [expected]


def test_an_empty_column_and_blank_cells_are_accepted() -> None:
    nothing = pl.Series([], dtype=pl.String)
    assert normalize_phones(nothing, nothing).to_list() == []
    blank = normalize_phones(pl.Series([None, "", " ", "n/a"]), pl.Series(["", "us", "", ""]))
    assert blank.to_list() == ["", "", "", ""]


@pytest.mark.parametrize(
    ("value", "region", "expected"),
    [
        ("4915112345678", "DE", "4915112345678"),
        ("004915112345678", "DE", "4915112345678"),
        ("0151 12345678", "DE", "4915112345678"),
        ("15112345678", "DE", "4915112345678"),
        ("6281234567890", "ID", "6281234567890"),
        ("9198765432", "IN", "919198765432"),
        ("3912345678", "IT", "393912345678"),
        # Brazil's and Colombia's international prefixes name a carrier: 0055 and 0057 do not.
        ("0055 11 91234-5678", "BR", "5511912345678"),
        ("0015 1 650 555 1212", "BR", "16505551212"),
        ("0057 300 1234567", "CO", "573001234567"),
        ("0049 151 12345678", "JP", "4915112345678"),
        ("010 49 151 12345678", "JP", "4915112345678"),
    ],
)
def test_the_order_of_decision(value: str, region: str, expected: str) -> None:
    assert read_phone(value, region).international == expected
    assert_equal_to_reference([(value, region)])


def test_the_majority_of_a_list_decides_what_a_number_alone_cannot() -> None:
    disputed = pl.Series(["4915112345678"])
    lacking = pl.Series(["15112345678", "15112345679", "4917212345678"])
    germany = pl.Series(["de"])

    def convention(values: pl.Series) -> PhoneConvention:
        return count_phone_spellings(values, germany.new_from_index(0, len(values))).convention()

    assert convention(disputed) == PhoneConvention()
    assert normalize_phones(disputed, germany).to_list() == ["4915112345678"]
    assert convention(lacking) == PhoneConvention({"DE": "national"})
    read = normalize_phones(disputed, germany, convention(lacking))
    assert read.to_list() == ["494915112345678"]
    assert normalize_phone("4915112345678", "DE", national=True) == "494915112345678"


def test_counts_of_spellings_add_up_and_a_tie_is_no_convention() -> None:
    left = PhoneSpellings(Counter(DE=2), Counter(DE=1), Counter(DE=4))
    right = PhoneSpellings(Counter(AT=1), Counter(DE=1), Counter(DE=1))
    both = left + right
    assert (both.disputed["DE"], both.convention()) == (5, PhoneConvention({"AT": "international"}))
    assert PhoneConvention.from_json(both.convention().to_json()) == both.convention()
    with pytest.raises(ValueError, match="maps regions"):
        PhoneConvention.from_json('{"DE": "both"}')


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("4915112345678.0", "4915112345678"),
        ("15112345678.00", "4915112345678"),
        ("'015112345678", "4915112345678"),
        ('="015112345678"', "4915112345678"),
        ('="4915112345678.0"', "4915112345678"),
        ("0151.12345.00", "491511234500"),
        ("4.91511E+12", None),
        ("4,91511e+12", None),
        ('="4.9E12"', None),
    ],
)
def test_numbers_that_a_spreadsheet_changed(cell: str, expected: str | None) -> None:
    assert normalize_phone(cell, "DE") == expected
    assert_equal_to_reference([(cell, "DE")])


def _valid_numbers(region: str, count: int, chance: random.Random) -> set[str]:
    """Random valid national mobile and fixed numbers of a region."""
    metadata = PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    found: set[str] = set()
    for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE):
        example = phonenumbers.example_number_for_type(region, kind)
        if example is None:
            continue
        digits = phonenumbers.national_significant_number(example)
        of_kind: set[str] = set()
        for _ in range(20 * count):
            kept = chance.randint(1, 4)
            tail = "".join(chance.choices("0123456789", k=len(digits) - kept))
            candidate = f"+{metadata.country_code}{digits[:kept]}{tail}"
            number = phonenumbers.parse(candidate, None)
            written = phonenumbers.national_significant_number(number)
            if phonenumbers.is_valid_number(number) and candidate.endswith(written):
                of_kind.add(written)
            if len(of_kind) == count:
                break
        found |= of_kind
    return found


@pytest.mark.no_cover  # its loop over phonenumbers costs most of what coverage costs
@pytest.mark.parametrize(
    "count", [4, pytest.param(1_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_every_regions_mobiles_are_read_right_in_four_spellings(count: int) -> None:
    chance = random.Random(20261125)
    wrong = []
    for region in REGIONS:
        country_code = str(phonenumbers.country_code_for_region(region))
        trunk = phonenumbers.ndd_prefix_for_region(region, True)
        national = sorted(_valid_numbers(region, count, chance))
        prefixes = [f"+{country_code}", f"00{country_code}", country_code]
        if trunk:
            prefixes.append(trunk)
        written = [prefix + number for prefix in prefixes for number in national]
        for cells, default in (
            ({"PHONE": written}, region),
            ({"PHONE": written, "COUNTRY": [region] * len(written)}, None),
        ):
            got = normalize(pl.DataFrame(cells), default_country=default)["PHONE"]
            wrong += [
                (region, value)
                for value, number, form in zip(written, national * len(prefixes), got, strict=True)
                if form != country_code + number and _is_mobile(country_code + number)
            ]
    assert not wrong, wrong[:20]


def _is_mobile(number: str) -> bool:
    kind = phonenumbers.number_type(phonenumbers.parse(f"+{number}", None))
    return kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)
