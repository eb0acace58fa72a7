"""The rules of single keys, by example."""

import hashlib
import subprocess
import sys

import polars as pl
import pytest

from mm_pipelines.identity import COLUMNS, KEYS, normalize, phone_regions

UNUSABLE = None
ABSENT = ""


def one(key: str, value: str | None, country: str | None = None) -> str | None:
    frame = pl.DataFrame({key: [value]}, schema={key: pl.String})
    return normalize(frame, default_country=country)[key][0]  # type: ignore[no-any-return]


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
        ("COUNTRY", "Frankreich", None, "fr"),
        ("COUNTRY", "Österreich", None, "at"),
        ("COUNTRY", "Россия", None, "ru"),
        ("COUNTRY", "中国", None, "cn"),
        ("COUNTRY", "대한민국", None, "kr"),
        ("COUNTRY", "Kosova", None, "xk"),
        ("COUNTRY", "Kongo", None, UNUSABLE),
        ("COUNTRY", "Nigeri", None, UNUSABLE),
        ("COUNTRY", "電話", None, UNUSABLE),
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
def test_a_value_is_normalized_by_its_keys_rule(
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
    born = normalize(pl.DataFrame({"DOB": [value]}), default_country=country)
    assert born.columns == ["DOBY", "DOBM", "DOBD"]
    assert born.row(0) == expected


def test_a_year_of_its_own_goes_before_the_date_of_birth() -> None:
    frame = pl.DataFrame({"DOB": ["1997-02-05", "1997-02-05"], "DOBY": ["1990", ""]})
    assert normalize(frame)["DOBY"].to_list() == ["1990", "1997"]


def test_the_rows_country_goes_before_the_audiences() -> None:
    frame = pl.DataFrame(
        {
            "COUNTRY": ["FR", "", "Atlantis", hashlib.sha256(b"us").hexdigest()],
            "PHONE": ["06 12 34 56 78", "020 7946 0958", "020 7946 0958", "(650) 555-1212"],
        }
    )  # fmt: skip
    assert phone_regions(frame, default_country="GB").to_list() == ["fr", "gb", "", "us"]
    assert normalize(frame, default_country="GB")["PHONE"].to_list() == [
        "33612345678",
        "442079460958",
        None,
        "16505551212",
    ]


def test_a_hash_of_no_country_gives_no_region() -> None:
    frame = pl.DataFrame({"COUNTRY": ["0" * 64], "PHONE": ["+1 650 555 1212"]})
    assert phone_regions(frame).to_list() == [""]
    assert normalize(frame)["PHONE"].to_list() == ["16505551212"]


def test_columns_come_in_one_order_and_others_are_left_out() -> None:
    frame = pl.DataFrame({key: ["x"] for key in (*reversed(COLUMNS), "note")})
    assert normalize(frame).columns == list(KEYS)


def test_the_name_of_a_country_is_understood_in_all_of_cldrs_languages() -> None:
    from babel import Locale

    for language in ("ar", "bg", "de", "el", "es", "fi", "fr", "he", "hi", "id", "ja", "ko", "pl",
                     "pt", "ru", "th", "tr", "uk", "vi", "zh"):  # fmt: skip
        names = {
            code: name for code, name in Locale(language).territories.items()
            if code in ("BR", "DE", "EG", "FR", "IN", "JP", "MX", "NL", "US", "ZA")
        }  # fmt: skip
        got = normalize(pl.DataFrame({"COUNTRY": list(names.values())}))["COUNTRY"].to_list()
        assert got == [code.lower() for code in names], language


def test_importing_the_rules_loads_no_names_of_countries() -> None:
    program = "import sys, mm_pipelines.identity; print({'babel', 'pycountry'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
