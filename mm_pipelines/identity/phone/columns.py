"""Whole columns of phone numbers, equal to ``reference.normalise_phone`` value by value.

Three ways, each for what the one before leaves:

1. digits with plain separators are read as integers and decided by their shape (``shapes``), all
   in integer arithmetic: the digits kept are the remainder by a power of ten;
2. what else is written around a number and certainly does not belong to it (labels before it,
   extensions behind it, other scripts' spaces and dashes) is taken off, then way 1 again;
3. each distinct value that is left is asked of ``phonenumbers``.
"""

from functools import lru_cache

import polars as pl

from mm_pipelines.identity.blank import is_blank
from mm_pipelines.identity.hashing import hashed_already
from mm_pipelines.identity.phone import shapes
from mm_pipelines.identity.phone.reference import normalise_phone
from mm_pipelines.identity.text import put

_SEPARATORS = [" ", "(", ")", ".", "-", "/"]
_LONGEST_TEXT = 250  # libphonenumber reads no longer text

# Before the first digit or plus sign nothing counts, and trailing signs do not.
_BEFORE = r"^[^+\x{FF0B}\p{Nd}]+"
_BEHIND = r"[ \t,:!?'\"]+$"
# The signs that libphonenumber takes for separators, but for x and ~, which can begin an extension.
_OTHER_SEPARATORS = (
    r"[\[\]\x{2010}-\x{2015}\x{2212}\x{FF0D}\x{FF0F}\x{A0}\x{AD}\x{200B}\x{2060}"
    r"\x{3000}\x{FF08}\x{FF09}\x{FF3B}\x{FF3D}\x{FF0E}]"
)
_EXTENSION = r"(?i)[ \t,]*(?:e?xt(?:ension|n)?|x)[:.]?[ \t,\-]*[0-9]{1,9}$"

# A decision as one integer: -1 undecided, 0 rejected, else the country code and the digits kept.
_UNDECIDED, _REJECTED, _RADIX = -1, 0, 32
_UNREADABLE = -1  # the shape of what is no plain number
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_POWERS_OF_TEN = pl.Series([10**power for power in range(19)], dtype=pl.Int64)


def normalise_phones(values: pl.Series, regions: pl.Series) -> pl.Series:
    """The numbers' digits with their country code; ``""`` where blank, null where unusable.

    Args:
        values: Numbers as they stand in the list; null is a blank cell.
        regions: Lower-case alpha-2 code for each, ``""`` where none is known.
    """
    cells = pl.DataFrame({"value": values.fill_null(""), "region": regions})
    found = _by_shape(cells)
    left = found["decision"] == _UNDECIDED
    if not left.any():
        return found["number"]
    rest = cells.filter(left)
    distinct = rest.unique()
    answers = distinct.with_columns(answer=_what_is_left(distinct))
    rest = rest.join(answers, on=["value", "region"], how="left", maintain_order="left")
    return put(found["number"], left, rest["answer"])


def _what_is_left(cells: pl.DataFrame) -> pl.Series:
    """Ways 2 and 3 over distinct values, after the cells that hold no number at all."""
    value = pl.col("value")
    stripped = value.str.replace(_BEFORE, "").str.replace(_BEHIND, "").str.replace(_EXTENSION, "")
    bare = cells.select(
        # Taking signs off must not make a text readable that was too long before.
        pl.when(value.str.len_bytes() <= _LONGEST_TEXT)
        .then(stripped.str.replace_all(_OTHER_SEPARATORS, " "))
        .otherwise(pl.lit(""))
        .alias("value"),
        "region",
    )
    known = pl.when(is_blank(value)).then(pl.lit("")).otherwise(hashed_already(value))
    cells = cells.with_columns(_by_shape(bare)).with_columns(known.alias("known"))
    asked = (pl.col("decision") == _UNDECIDED) & pl.col("known").is_null()
    one_by_one = cells.filter(asked).select("value", "region")
    one_by_one = one_by_one.with_columns(
        asked=pl.Series(
            [normalise_phone(value, region.upper()) for value, region in one_by_one.iter_rows()],
            dtype=pl.String,
        )
    )
    cells = cells.join(one_by_one, on=["value", "region"], how="left", maintain_order="left")
    return cells.select(pl.coalesce("known", "number", "asked")).to_series()


def _by_shape(cells: pl.DataFrame) -> pl.DataFrame:
    """Way 1: the columns ``number`` and ``decision``; what is no plain number is undecided."""
    plain = cells["value"].str.replace_many(_SEPARATORS, [""] * len(_SEPARATORS))
    numbers = (
        pl.LazyFrame(
            {
                "region": _region_number(cells["region"]),
                # Only digits, with at most a plus sign before them, are read as an integer.
                "digits": plain.cast(pl.Int64, strict=False),
                "plus": plain.str.starts_with("+").cast(pl.Int64),
                "length": plain.str.len_bytes().cast(pl.Int64),
                "readable": cells["value"].str.len_bytes() <= _LONGEST_TEXT,
            }
        )
        .with_columns(length=pl.col("length") - pl.col("plus"))
        .with_columns(
            readable=pl.col("readable")
            & pl.col("digits").is_not_null()
            & pl.col("length").is_between(shapes.SHORTEST, shapes.LONGEST)
        )
        .collect()
    )
    first, *further = shapes.LEADING_DIGITS
    decision = _decisions(numbers, first)
    for leading in further:
        asked = numbers["readable"] & (decision == _UNDECIDED) & (numbers["length"] >= leading)
        if asked.any():
            decision = put(decision, asked, _decisions(numbers.filter(asked), leading))
    kept = _POWERS_OF_TEN.gather(decision.clip(0) % _RADIX)
    number = (decision // _RADIX) * kept + numbers["digits"].fill_null(0) % kept
    return pl.select(
        number=pl.when(decision > _REJECTED).then(number).cast(pl.String),
        decision=decision,
    )


def _number_of(region: str) -> int:
    return 1 + _LETTERS.index(region[0]) * 26 + _LETTERS.index(region[1]) if region else 0


def _region_number(regions: pl.Series) -> pl.Series:
    """0 for no region, else a number made of the code's two letters."""
    names = regions.unique()
    numbers = [_number_of(name) for name in names]
    # Cast, because of no regions at all Polars makes text in spite of the type asked for.
    return regions.replace_strict(names, numbers, return_dtype=pl.Int64).cast(pl.Int64)


def _decisions(numbers: pl.DataFrame, leading: int) -> pl.Series:
    """The decision for each number by its region, sign, length and first digits."""
    rest = _POWERS_OF_TEN.gather((numbers["length"] - leading).clip(0, shapes.LONGEST))
    outline = (numbers["region"] * 2 + numbers["plus"]) * _RADIX + numbers["length"]
    shape = (outline * 10**leading + numbers["digits"] // rest).set(
        ~numbers["readable"], _UNREADABLE
    )
    distinct = shape.unique()
    answers = [_decision(one, leading) for one in distinct]
    decisions: pl.Series = shape.replace_strict(distinct, answers, return_dtype=pl.Int64)
    return decisions


@lru_cache(maxsize=500_000)
def _decision(shape: int, leading: int) -> int:
    if shape == _UNREADABLE:
        return _UNDECIDED
    outline, digits = divmod(shape, 10**leading)
    where, length = divmod(outline, _RADIX)
    number, plus = divmod(where, 2)
    first, second = divmod(number - 1, 26)
    region = (_LETTERS[first] + _LETTERS[second]).upper() if number else ""
    decision = shapes.decide(region, plus=bool(plus), leading=f"{digits:0{leading}}", length=length)
    match decision:
        case shapes.Kept(country_code, kept):
            return country_code * _RADIX + kept
        case shapes.Rejected():
            return _REJECTED
    return _UNDECIDED
