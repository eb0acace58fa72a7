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
from mm_pipelines.identity.hashing import HASH_DIGITS, hashed_already
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
    return put(found["number"], left, _without_surroundings(cells.filter(left)))


def _without_surroundings(cells: pl.DataFrame) -> pl.Series:
    """Way 2, and way 3 for what it leaves."""
    value = pl.col("value")
    stripped = value.str.replace(_BEFORE, "").str.replace(_BEHIND, "").str.replace(_EXTENSION, "")
    length = value.str.len_bytes()
    bare = cells.select(
        # Taking signs off must not make a text readable that was too long before.
        pl.when(length <= _LONGEST_TEXT)
        .then(stripped.str.replace_all(_OTHER_SEPARATORS, " "))
        .otherwise(pl.lit(""))
        .alias("value"),
        "region",
        # Without its first letters a hash could pass for a number.
        perhaps_hashed=length >= HASH_DIGITS,
    )
    found = _by_shape(bare)
    left = (found["decision"] == _UNDECIDED) | bare["perhaps_hashed"]
    if not left.any():
        return found["number"]
    return put(found["number"], left, _one_by_one(cells.filter(left)))


def _one_by_one(cells: pl.DataFrame) -> pl.Series:
    """Way 3, after the cells that hold no number at all."""
    value = pl.col("value")
    known = pl.when(is_blank(value)).then(pl.lit("")).otherwise(hashed_already(value))
    distinct = cells.unique().with_columns(answer=known)
    asked = distinct["answer"].is_null()
    answers = [
        normalise_phone(value, region.upper())
        for value, region in distinct.filter(asked).select("value", "region").iter_rows()
    ]
    answer = put(distinct["answer"], asked, pl.Series(answers, dtype=pl.String))
    distinct = distinct.with_columns(answer=answer)
    found = cells.join(distinct, on=["value", "region"], how="left", maintain_order="left")
    return found["answer"]


def _by_shape(cells: pl.DataFrame) -> pl.DataFrame:
    """Way 1: the columns ``number`` and ``decision``; what is no plain number is undecided."""
    first, *further = shapes.LEADING_DIGITS
    written = cells.select("value", region=_region_numbers(cells["region"])).lazy()
    numbers = _read(written).with_columns(shape=_shape(first)).collect()
    decision = _decisions(numbers["shape"], first)
    for leading in further:
        asked = numbers["readable"] & (decision == _UNDECIDED) & (numbers["length"] >= leading)
        if asked.any():
            longer = numbers.filter(asked).select(_shape(leading)).to_series()
            decision = put(decision, asked, _decisions(longer, leading))
    usable = pl.col("decision").clip(_REJECTED)
    # The digits kept are the remainder by a power of ten.
    power = pl.lit(_POWERS_OF_TEN).gather(usable % _RADIX)
    number = (usable // _RADIX * power + pl.col("digits") % power).cast(pl.String)
    return (
        numbers.lazy()
        .select("digits", decision=decision)
        .select("decision", number=pl.when(pl.col("decision") > _REJECTED).then(number))
        .collect()
    )


def _read(cells: pl.LazyFrame) -> pl.LazyFrame:
    """The numbers as integers: their digits, how many they are, and the plus sign as 0 or 1."""
    value, plain = pl.col("value"), pl.col("plain")
    readable = pl.col("digits").is_not_null() & (pl.col("bytes") <= _LONGEST_TEXT)
    return (
        cells.select(
            "region",
            bytes=value.str.len_bytes(),
            plain=value.str.replace_many(_SEPARATORS, [""] * len(_SEPARATORS)),
        )
        .select(
            "region",
            "bytes",
            # Only digits, with at most a plus sign before them, are read as an integer.
            digits=plain.cast(pl.Int64, strict=False),
            plus=plain.str.starts_with("+").cast(pl.Int64),
            signs=plain.str.len_bytes().cast(pl.Int64),
        )
        .select("region", "digits", "plus", "bytes", length=pl.col("signs") - pl.col("plus"))
        .select(
            pl.exclude("bytes"),
            readable=readable & pl.col("length").is_between(shapes.SHORTEST, shapes.LONGEST),
        )
    )


def _shape(leading: int) -> pl.Expr:
    """Region, plus sign, length and first digits of a number, as one integer."""
    outline = (pl.col("region") * 2 + pl.col("plus")) * _RADIX + pl.col("length")
    behind = pl.lit(_POWERS_OF_TEN).gather((pl.col("length") - leading).clip(0, shapes.LONGEST))
    shape = outline * 10**leading + pl.col("digits") // behind
    return pl.when("readable").then(shape).otherwise(_UNREADABLE)


def _region_numbers(regions: pl.Series) -> pl.Series:
    """0 for no region, else a number made of the code's two letters."""
    names = regions.unique()
    numbers = pl.Series([_number_of(name) for name in names], dtype=pl.Int64)
    if len(names) == 1:
        return numbers.new_from_index(0, regions.len())
    return regions.replace_strict(names, numbers, return_dtype=pl.Int64).cast(pl.Int64)


def _number_of(region: str) -> int:
    return 1 + _LETTERS.index(region[0]) * 26 + _LETTERS.index(region[1]) if region else 0


def _decisions(numbers: pl.Series, leading: int) -> pl.Series:
    """The decision for each number by its shape."""
    distinct = numbers.unique()
    answers = [_decision(one, leading) for one in distinct]
    decisions: pl.Series = numbers.replace_strict(distinct, answers, return_dtype=pl.Int64)
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
