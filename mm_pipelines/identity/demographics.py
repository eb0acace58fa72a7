"""GEN, DOBY, DOBM and DOBD, the last three also from one date of birth."""

from datetime import UTC, datetime

import polars as pl

from mm_pipelines.identity.cells import outcome
from mm_pipelines.identity.text import lower, trimmed

FIRST_YEAR = 1900

_GENDERS = {
    "m": "m", "male": "m", "man": "m", "men": "m", "f": "f", "female": "f", "woman": "f",
    "women": "f", "männlich": "m", "weiblich": "f", "homme": "m", "femme": "f", "masculin": "m",
    "féminin": "f", "hombre": "m", "mujer": "f", "masculino": "m", "femenino": "f",
    "feminino": "f", "maschio": "m", "femmina": "f",
}  # fmt: skip

_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONTH_NUMBERS = {
    name: f"{number:02}"
    for number, month in enumerate(_MONTHS, start=1)
    for name in (month, month[:3], month[:4])
}

_YEAR_FIRST = r"^(?<y>\d{4})[-/.](?<m>\d{1,2})[-/.](?<d>\d{1,2})(?:$|[t ])"
_COMPACT = r"^(?<y>\d{4})(?<m>\d{2})(?<d>\d{2})$"
_DAY_FIRST = r"^(?<d>\d{1,2})\.\s?(?<m>\d{1,2})\.\s?(?<y>\d{4})(?:$|[t ])"
_EITHER_FIRST = r"^(?<a>\d{1,2})[-/](?<b>\d{1,2})(?:[-/](?<y>\d{4}))?(?:$|[t ])"
_DAY_MONTH_NAME = r"^(?<d>\d{1,2})(?:st|nd|rd|th|\.)?[ -](?<m>[a-z]{3,9})\.?[ ,-]+(?<y>\d{4})$"
_MONTH_NAME_DAY = r"^(?<m>[a-z]{3,9})\.? (?<d>\d{1,2})(?:st|nd|rd|th)?,? (?<y>\d{4})$"


def gender(value: pl.Expr) -> pl.Expr:
    """``m`` or ``f``."""
    text = lower(trimmed(value)).str.strip_chars(".")
    return outcome(value, text.replace_strict(_GENDERS, default=None, return_dtype=pl.String))


def birth_year(value: pl.Expr) -> pl.Expr:
    """The year of birth as ``YYYY``, from 1900 to this year."""
    return outcome(value, _year(_number(value)))


def birth_month(value: pl.Expr) -> pl.Expr:
    """The month of birth as ``MM``, from its number or its English name."""
    text = _number(value)
    return outcome(value, pl.coalesce(_up_to(text, 12), _month_by_name(text)))


def birth_day(value: pl.Expr) -> pl.Expr:
    """The day of birth in its month as ``DD``."""
    return outcome(value, _up_to(_number(value), 31))


def date_of_birth(value: pl.Expr, country: pl.Expr) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Year, month and day from one date: ISO, ``20.11.1997``, ``11/20/1997``, ``20 Nov 1997``.

    ``02/03/1997`` is the third of February in the United States and the second of March in other
    countries; where the country is not known, month and day are unusable.

    Args:
        value: The cell.
        country: Lower-case alpha-2 code of the row, ``""`` where it is not known.
    """
    text = trimmed(value).str.to_lowercase()
    plain = [
        text.str.extract_groups(pattern)
        for pattern in (_YEAR_FIRST, _COMPACT, _DAY_FIRST, _DAY_MONTH_NAME, _MONTH_NAME_DAY)
    ]
    either = text.str.extract_groups(_EITHER_FIRST)
    first, second = (either.struct.field(part).cast(pl.Int64) for part in ("a", "b"))
    month_first = (second > 12) | (country == "us")
    certain = (country != "") | (first > 12) | (second > 12) | (first == second)
    day = pl.when(certain).then(pl.when((first <= 12) & month_first).then(second).otherwise(first))
    month = pl.when(certain).then(
        pl.when((first <= 12) & month_first).then(first).otherwise(second),
    )
    years = pl.coalesce(*(groups.struct.field("y") for groups in (*plain, either)))
    months = pl.coalesce(*(groups.struct.field("m") for groups in plain), month.cast(pl.String))
    days = pl.coalesce(*(groups.struct.field("d") for groups in plain), day.cast(pl.String))
    return (
        outcome(value, _year(years)),
        outcome(value, pl.coalesce(_up_to(months, 12), _month_by_name(months))),
        outcome(value, _up_to(days, 31)),
    )


def _number(value: pl.Expr) -> pl.Expr:
    # A spreadsheet that reads the column as numbers adds a fraction.
    return trimmed(value).str.to_lowercase().str.replace(r"^(\d+)\.0+$", "$1")


def _year(text: pl.Expr) -> pl.Expr:
    year = pl.when(text.str.contains(r"^[0-9]{4}$")).then(text).cast(pl.Int64)
    return pl.when(year.is_between(FIRST_YEAR, datetime.now(UTC).year)).then(text)


def _up_to(text: pl.Expr, most: int) -> pl.Expr:
    number = pl.when(text.str.contains(r"^[0-9]{1,2}$")).then(text).cast(pl.Int64)
    return pl.when(number.is_between(1, most)).then(text.str.zfill(2))


def _month_by_name(text: pl.Expr) -> pl.Expr:
    return text.str.strip_chars(".").replace_strict(
        _MONTH_NUMBERS, default=None, return_dtype=pl.String
    )
