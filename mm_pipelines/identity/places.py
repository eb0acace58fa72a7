"""CT, ST and ZIP: letters a to z and digits, with the United States' own rules."""

from functools import cache

import polars as pl

from mm_pipelines.identity.cells import outcome
from mm_pipelines.identity.text import lower, trimmed

_UNITED_STATES = "us"


def city(value: pl.Expr) -> pl.Expr:
    """A city, cut to a to z as Meta's own normalizer does: ``São Paulo`` is ``sopaulo``."""
    return outcome(value, _roman(value))


def state(value: pl.Expr, country: pl.Expr) -> pl.Expr:
    """A state or province.

    In the United States the two-letter code, from the code (``CA``, ``US-CA``) or the name;
    elsewhere the name cut to a to z. Where the country is not known, the name of a state of the
    United States is read as one, which is what Meta's own normalizer does.

    Args:
        value: The cell.
        country: Lower-case alpha-2 code of the row, ``""`` where it is not known.
    """
    roman = _roman(value)
    codes = us_states()
    code = roman.str.strip_prefix("us").replace_strict(codes, default=None, return_dtype=pl.String)
    code = pl.coalesce(roman.replace_strict(codes, default=None, return_dtype=pl.String), code)
    known = (
        pl.when(country == _UNITED_STATES)
        .then(code)
        .when((country == "") & (roman.str.len_bytes() > 2))
        .then(pl.coalesce(code, roman))
        .otherwise(roman)
    )
    return outcome(value, known)


def postal_code(value: pl.Expr, country: pl.Expr) -> pl.Expr:
    """A postal code: lower case, no spaces or dashes; in the United States the first five digits.

    Args:
        value: The cell.
        country: Lower-case alpha-2 code of the row, ``""`` where it is not known.
    """
    text = trimmed(value).str.to_lowercase()
    # A spreadsheet that reads the column as numbers adds a fraction.
    text = text.str.replace(r"^(\d+)\.0+$", "$1")
    compact = text.str.replace_all(r"[\s\p{Pd}]+", "")
    us = compact.str.extract(r"^(\d{5})(?:\d{4})?$")
    zip_plus_four = text.str.extract(r"^(\d{5})-\d{4}$")
    elsewhere = pl.when(compact.str.contains(r"^[a-z0-9]{2,}$")).then(compact)
    known = (
        pl.when(country == _UNITED_STATES)
        .then(us)
        .when(country == "")
        .then(pl.coalesce(zip_plus_four, elsewhere))
        .otherwise(elsewhere)
    )
    return outcome(value, known)


@cache
def us_states() -> dict[str, str]:
    """Two-letter codes of the United States by code and by name cut to a to z, all lower case."""
    # pycountry reads some megabytes of JSON; only lists with an ST column need them.
    import pycountry

    codes = {"washingtondc": "dc"}
    for subdivision in pycountry.subdivisions:
        if subdivision.country_code != "US":
            continue
        code = subdivision.code.removeprefix("US-").lower()
        codes[code] = code
        name = subdivision.name.lower().replace("u.s.", "")
        codes["".join(letter for letter in name if "a" <= letter <= "z")] = code
    return codes


def _roman(value: pl.Expr) -> pl.Expr:
    # In NFC, or the a of a decomposed ã would stay and one city would have two hashes.
    return lower(value).str.replace_all(r"[^a-z]+", "")
