"""The rules of single keys, by example."""

import hashlib

import polars as pl
import pytest

from mm_pipelines.identity import COLUMNS, KEYS, normalise, regions

UNUSABLE = None
ABSENT = ""


def one(key: str, value: str | None, country: str | None = None) -> str | None:
    frame = pl.DataFrame({key: [value]}, schema={key: pl.String})
    return normalise(frame, default_country=country)[key][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "cell",
    [None, "", "  ", "\xa0", "null", "NULL", "None", "nan", "N/A", "n/a ", "-", "#N/A", "#REF!",
     "#VALUE!", "\ufeff"],
)  # fmt: skip
def test_a_blank_cell_is_absent(key: str, cell: str | None) -> None:
    assert one(key, cell) == ABSENT


@pytest.mark.parametrize(
    "value",
    ["mary", "mary@", "@example.com", "mary@example", "a b@example.com", "a@b@example.com",
     "mary@example.com.", "mary@.com", "mary@example..com", "a@b.com,c@d.com", "<a@b.com>", "\\"],
)  # fmt: skip
def test_what_is_no_single_address_is_unusable(value: str) -> None:
    assert one("EMAIL", value) is UNUSABLE


@pytest.mark.parametrize(
    ("key", "value", "country", "expected"),
    [
        ("EMAIL", "Jürgen@Müller.DE", None, "jürgen@müller.de"),
        ("EMAIL", "o'brien@example.com", None, "o'brien@example.com"),
        ("FN", "  Jean-Luc ", None, "jeanluc"),
        ("FN", "Mary Ann", None, "maryann"),
        ("FN", "Иван", None, "иван"),
        ("FN", "\N{ROSE}", None, UNUSABLE),
        ("LN", "van der Berg", None, "vanderberg"),
        ("LN", "St. John", None, "stjohn"),
        ("FI", "Élise", None, "é"),
        ("FI", "J.", None, "j"),
        ("GEN", "Female", None, "f"),
        ("GEN", "M", None, "m"),
        ("GEN", "other", None, UNUSABLE),
        ("CT", "São Paulo", None, "sopaulo"),
        ("CT", "St. Louis", None, "stlouis"),
        ("CT", "東京", None, UNUSABLE),
        ("ST", "California", "US", "ca"),
        ("ST", "us-ca", "US", "ca"),
        ("ST", "D.C.", "US", "dc"),
        ("ST", "Bavaria", "US", UNUSABLE),
        ("ST", "New York", None, "ny"),
        ("ST", "Ontario", "CA", "ontario"),
        ("ST", "Île-de-France", "FR", "ledefrance"),
        ("ST", "Georgia", "GE", "georgia"),
        ("ZIP", "94035-1234", "US", "94035"),
        ("ZIP", "94035-1234", None, "94035"),
        ("ZIP", "940351234", "US", "94035"),
        ("ZIP", "2139", "US", UNUSABLE),
        ("ZIP", "SW1A 1AA", "GB", "sw1a1aa"),
        ("ZIP", "1000-001", "PT", "1000001"),
        ("ZIP", "10115.0", "DE", "10115"),
        ("COUNTRY", "Deutschland", None, "de"),
        ("COUNTRY", "DEU", None, "de"),
        ("COUNTRY", "Côte d'Ivoire", None, "ci"),
        ("COUNTRY", "The Netherlands", None, "nl"),
        ("COUNTRY", "UK", None, "gb"),
        ("COUNTRY", "NA", None, "na"),
        ("COUNTRY", "Atlantis", None, UNUSABLE),
        ("COUNTRY", "XX", None, UNUSABLE),
        ("DOBY", "1997", None, "1997"),
        ("DOBY", "1899", None, UNUSABLE),
        ("DOBY", "2999", None, UNUSABLE),
        ("DOBY", "97", None, UNUSABLE),
        ("DOBM", "Feb", None, "02"),
        ("DOBM", "13", None, UNUSABLE),
        ("DOBD", "31.0", None, "31"),
        ("DOBD", "0", None, UNUSABLE),
        ("MADID", "AEBE52E7-03EE-455A-B3C4-E57283966239", None,
         "aebe52e7-03ee-455a-b3c4-e57283966239"),
        ("MADID", "00000000-0000-0000-0000-000000000000", None, UNUSABLE),
        ("EXTERN_ID", " Ab-1 ", None, "Ab-1"),
        ("EXTERN_ID", "A" * 64, None, "A" * 64),
    ],
)  # fmt: skip
def test_a_value_is_normalised_by_its_keys_rule(
    key: str, value: str, country: str | None, expected: str | None
) -> None:
    assert one(key, value, country) == expected


@pytest.mark.parametrize(
    ("value", "country", "expected"),
    [
        ("1997-02-05", None, ("1997", "02", "05")),
        ("1997-02-05T00:00:00", None, ("1997", "02", "05")),
        ("19970205", None, ("1997", "02", "05")),
        ("5.2.1997", None, ("1997", "02", "05")),
        ("02/05/1997", "US", ("1997", "02", "05")),
        ("02/05/1997", "GB", ("1997", "05", "02")),
        ("02/05/1997", None, ("1997", None, None)),
        ("25/12/1980", "US", ("1980", "12", "25")),
        ("12/25/1980", "GB", ("1980", "12", "25")),
        ("5 Feb 1997", None, ("1997", "02", "05")),
        ("February 5th, 1997", None, ("1997", "02", "05")),
        ("12/25", None, (None, "12", "25")),
        ("soon", None, (None, None, None)),
        ("", None, ("", "", "")),
    ],
)
def test_a_date_of_birth_gives_year_month_and_day(
    value: str, country: str | None, expected: tuple[str | None, ...]
) -> None:
    born = normalise(pl.DataFrame({"DOB": [value]}), default_country=country)
    assert born.columns == ["DOBY", "DOBM", "DOBD"]
    assert born.row(0) == expected


def test_a_year_of_its_own_goes_before_the_date_of_birth() -> None:
    frame = pl.DataFrame({"DOB": ["1997-02-05", "1997-02-05"], "DOBY": ["1990", ""]})
    assert normalise(frame)["DOBY"].to_list() == ["1990", "1997"]


def test_the_rows_country_goes_before_the_audiences() -> None:
    frame = pl.DataFrame(
        {
            "COUNTRY": ["FR", "", "Atlantis", hashlib.sha256(b"us").hexdigest()],
            "PHONE": ["06 12 34 56 78", "020 7946 0958", "020 7946 0958", "(650) 555-1212"],
        }
    )  # fmt: skip
    assert regions(frame, default_country="GB").to_list() == ["fr", "gb", "gb", "us"]
    assert normalise(frame, default_country="GB")["PHONE"].to_list() == [
        "33612345678",
        "442079460958",
        "442079460958",
        "16505551212",
    ]


def test_a_hash_of_no_country_tells_no_region() -> None:
    frame = pl.DataFrame({"COUNTRY": ["0" * 64], "PHONE": ["+1 650 555 1212"]})
    assert regions(frame).to_list() == [""]
    assert normalise(frame)["PHONE"].to_list() == ["16505551212"]


def test_columns_come_in_one_order_and_others_are_left_out() -> None:
    frame = pl.DataFrame({key: ["x"] for key in (*reversed(COLUMNS), "note")})
    assert normalise(frame).columns == list(KEYS)
