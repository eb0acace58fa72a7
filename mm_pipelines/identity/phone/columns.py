"""Whole columns of phone numbers, equal to ``reference.read_phone`` value by value.

There are three ways, each for what the one before leaves:

1. Digits with plain separators are read as integers and decided by their shape
   (``shape_readings``), all in integer arithmetic: the last digits are a remainder by a power of
   ten. The shape has 3 leading digits at first, then more where these do not decide.
2. What is written around a number and certainly does not belong to it (labels, extensions, other
   scripts' digits and separators) is removed, then way 1 again.
3. ``phonenumbers`` reads each distinct value that is left.
"""

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import polars as pl

from mm_pipelines.identity.cells import is_blank
from mm_pipelines.identity.hashing import HASH_DIGITS, hashed_already
from mm_pipelines.identity.phone import shape_readings as shapes
from mm_pipelines.identity.phone.convention import PhoneConvention, PhoneSpellings
from mm_pipelines.identity.phone.reference import bare_spelling, read_phone
from mm_pipelines.identity.text import put

FORMS = ("international", "national", "libphonenumber")

_SEPARATORS = [" ", "(", ")", ".", "-", "/"]
_LONGEST_TEXT = 250  # libphonenumber reads no longer text
_LEADING_DIGITS = (3, 6, 8, 10)
"""Leading digits of a shape at the first attempt, the second and so on. Three are enough for a
country code, six for one behind an international prefix, more for patterns of national numbers."""

# Before the first digit or plus sign nothing counts, and trailing signs do not.
_BEFORE = r"^[^+\x{FF0B}\p{Nd}]+"
_BEHIND = r"[^#\p{L}\p{N}]+$"
# The signs that libphonenumber takes for separators, but for x and ~, which can begin an extension.
_OTHER_SEPARATORS = (
    r"[\[\]\x{2010}-\x{2015}\x{2212}\x{FF0D}\x{FF0F}\x{A0}\x{AD}\x{200B}\x{2060}"
    r"\x{3000}\x{FF08}\x{FF09}\x{FF3B}\x{FF3D}\x{FF0E}]"
)
# libphonenumber's patterns of extensions (_create_extn_pattern), in their order.
_BEFORE_LABEL, _BEHIND_LABEL = r"[ \x{A0}\t,]*", r"[:.\x{FF0E}]?[ \x{A0}\t,\-]*"
_EXPLICIT_LABEL = r"(?:e?xt(?:ensi(?:o\x{301}?|\x{F3}))?n?|\x{434}\x{43E}\x{431}|anexo)"
_EXTENSION = (
    r"(?i)(?:;ext=[0-9]{1,20}"
    rf"|{_BEFORE_LABEL}{_EXPLICIT_LABEL}{_BEHIND_LABEL}[0-9]{{1,20}}#?"
    rf"|{_BEFORE_LABEL}(?:[x#~]|int){_BEHIND_LABEL}[0-9]{{1,9}}#?"
    r"|[\- ]+[0-9]{1,6}#"
    rf"|[ \x{{A0}}\t]*(?:,{{2}}|;){_BEHIND_LABEL}[0-9]{{1,15}}#?"
    rf"|[ \x{{A0}}\t]*,+{_BEHIND_LABEL}[0-9]{{1,9}}#?)$"
)
# Three letters or more are read as digits of a telephone's keypad, after three digits at least.
_VANITY = r"^\+?[ ().\-/]*(?:[1-9]|0[ ().\-/]*[1-9])[ ().\-/]*[0-9][ ().\-/0-9A-Za-z]*$"
_VANITY_DIGITS = r"^\+?(?:[ ().\-/]*[0-9]){3}"
_VANITY_LETTERS = 3
_KEYPAD = dict(zip("abcdefghijklmnopqrstuvwxyz", "22233344455566677778889999", strict=True))
_KEYPAD |= {letter.upper(): digit for letter, digit in _KEYPAD.items()}
# The first digit of the scripts that are common in lists; way 3 reads the others.
_OTHER_ZEROS = (
    0x660, 0x6F0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xE50, 0xED0,
    0xF20, 0x1040, 0x17E0, 0x1810, 0xFF10,
)  # fmt: skip
_OTHER_DIGIT = r"[\p{Nd}--0-9]"
_OTHER_DIGITS = {chr(zero + digit): str(digit) for zero in _OTHER_ZEROS for digit in range(10)}
_DECIMAL_ZEROS = r"^([^0-9]*[0-9]+)\.0+([\s\"']*)$"
_PLUS = r"[+\x{FF0B}]"
_SCIENTIFIC = r"^[\s='\"+]*[0-9]+(?:[.,][0-9]+)?[eE]\+?[0-9]{1,3}[\s\"']*$"

# A form as one integer: -1 undecided, 0 rejected, else the known digits and the count that follows.
_UNDECIDED, _REJECTED, _RADIX = -1, 0, 32
_UNREADABLE = -1  # the shape of what is no plain number
_NO_SPELLING, _INTERNATIONAL, _NATIONAL = 0, 1, 2
_SPELLING_NUMBERS = {None: _NO_SPELLING, "international": _INTERNATIONAL, "national": _NATIONAL}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_POWERS_OF_TEN = pl.Series([10**power for power in range(19)], dtype=pl.Int64)


class _Forms(NamedTuple):
    """The forms of a shape as integers, in the order of ``FORMS``."""

    international: int
    national: int
    libphonenumber: int


_NO_FORMS = _Forms(_UNDECIDED, _UNDECIDED, _UNDECIDED)


def normalize_phones(
    values: pl.Series, regions: pl.Series, convention: PhoneConvention | None = None
) -> pl.Series:
    """The numbers' digits with their country code; ``""`` where blank, null where unusable.

    Args:
        values: Numbers as the list writes them; null is a blank cell.
        regions: Lower-case alpha-2 code for each, ``""`` where none is known.
        convention: The list's; None for a list without one.
    """
    needed = ("international", "national") if convention else ("international",)
    return by_convention(_forms(values, regions, needed), regions, convention)


def by_convention(
    readings: pl.DataFrame, regions: pl.Series, convention: PhoneConvention | None
) -> pl.Series:
    """Choose one of a number's readings, as ``normalize_phones`` does.

    Args:
        readings: The columns ``international`` and, with a convention, ``national``.
        regions: Lower-case alpha-2 code for each, ``""`` where none is known.
        convention: The list's; None for a list without one.
    """
    national = [region.lower() for region in convention.national_regions] if convention else []
    if not national:
        return readings["international"]
    lacking = regions.is_in(national)
    return readings["national"].zip_with(lacking, readings["international"])


def phone_readings(values: pl.Series, regions: pl.Series) -> pl.DataFrame:
    """Every normalized form that a number may have, for suppression lists.

    Args:
        values: Numbers as the list writes them; null is a blank cell.
        regions: Lower-case alpha-2 code for each, ``""`` where none is known.

    Returns:
        The columns ``FORMS`` as in ``reference.PhoneReadings``, each as ``normalize_phones`` gives
        it. In most rows all three are equal.
    """
    return _forms(values, regions, FORMS)


def count_phone_spellings(values: pl.Series, regions: pl.Series) -> PhoneSpellings:
    """Count what decides a list's convention, and the rows that the convention decides.

    Args:
        values: Numbers as the list writes them; null is a blank cell.
        regions: Lower-case alpha-2 code for each, ``""`` where none is known.
    """
    cells = pl.DataFrame({"value": values.fill_null(""), "region": regions})
    # With a plus sign, or without a region, a number has one reading.
    cells = cells.filter((pl.col("region") != "") & ~pl.col("value").str.contains(_PLUS))
    cells = _without_decimal_zeros(cells)
    regions = cells["region"]
    forms = _forms(cells["value"], regions, ("international", "national"))
    disputed = regions.filter(forms["international"].ne_missing(forms["national"]))
    spelling = _bare_spellings(cells)
    return PhoneSpellings(
        international=_count(regions.filter(spelling == _INTERNATIONAL)),
        national=_count(regions.filter(spelling == _NATIONAL)),
        disputed=_count(disputed),
    )


def is_phone_in_scientific_notation(value: pl.Expr) -> pl.Expr:
    """Whether a spreadsheet wrote a phone as ``4.91511E+12``, which loses its last digits."""
    return value.str.contains(_SCIENTIFIC)


def _count(regions: pl.Series) -> Counter[str]:
    counts = regions.str.to_uppercase().value_counts(name="count")
    return Counter(dict(counts.iter_rows()))


def _bare_spellings(cells: pl.DataFrame) -> pl.Series:
    """``reference.bare_spelling`` of each cell as an integer, 0 for none."""
    numbers = (
        _read(cells).collect().with_columns(readable=pl.col("readable") & (pl.col("plus") == 0))
    )
    spellings = pl.Series([_UNDECIDED], dtype=pl.Int64).new_from_index(0, numbers.height)
    spellings = spellings.zip_with(numbers["readable"], spellings * _NO_SPELLING)
    for leading in _LEADING_DIGITS:
        asked = spellings == _UNDECIDED
        if asked.any():
            shape = numbers.filter(asked).select(_shape(leading)).to_series()
            distinct = shape.unique()
            answers = [_bare_spelling(one, leading) for one in distinct]
            spellings = put(
                spellings, asked, shape.replace_strict(distinct, answers, return_dtype=pl.Int64)
            )
    left = spellings == _UNDECIDED
    rest = [
        _SPELLING_NUMBERS[bare_spelling(value, region.upper())]
        for value, region in cells.filter(left).select("value", "region").iter_rows()
    ]
    return put(spellings, left, pl.Series(rest, dtype=pl.Int64))


def _forms(values: pl.Series, regions: pl.Series, forms: tuple[str, ...]) -> pl.DataFrame:
    cells = pl.DataFrame({"value": values.fill_null(""), "region": regions})
    cells = _without_decimal_zeros(cells)
    found, left = _by_shape(cells, forms)
    if not left.any():
        return found
    return _put_rows(found, left, _without_surroundings(cells.filter(left), forms))


def _put_rows(frame: pl.DataFrame, where: pl.Series, rows: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(put(frame[name], where, rows[name]) for name in frame.columns)


def _without_decimal_zeros(cells: pl.DataFrame) -> pl.DataFrame:
    """The cells without the ``.0`` of a column that became decimal."""
    # Cheap to ask first: few cells end so.
    perhaps = cells["value"].str.strip_chars_end(" \t\n\r\"'0").str.ends_with(".")
    if not perhaps.any():
        return cells
    text = cells.filter(perhaps)["value"].str.replace(_DECIMAL_ZEROS, "$1$2")
    return cells.with_columns(put(cells["value"], perhaps, text))


def _without_surroundings(cells: pl.DataFrame, forms: tuple[str, ...]) -> pl.DataFrame:
    """Way 2, and way 3 for what it leaves."""
    value = pl.col("value")
    length = value.str.len_bytes()
    bare = (
        cells.lazy()
        .select(
            # Removing signs must not make a text readable that was too long before.
            pl.when(length <= _LONGEST_TEXT).then(value).otherwise(pl.lit("")),
            "region",
            # Without its first letters a hash could pass for a number.
            perhaps_hashed=length >= HASH_DIGITS,
            # libphonenumber drops such digits beside letters; way 3 reads these numbers.
            other_digits=value.str.contains(_OTHER_DIGIT),
        )
        .with_columns(value.str.replace(_BEFORE, "").str.replace(_BEHIND, ""))
        .with_columns(value.str.replace_many(_OTHER_DIGITS).str.replace(_EXTENSION, ""))
        .with_columns(value.str.replace_all(_OTHER_SEPARATORS, " "))
        .with_columns(
            pl.when(_is_vanity(value) & ~pl.col("other_digits"))
            .then(value.str.replace_many(_KEYPAD))
            .otherwise(value)
        )
        .collect()
    )
    found, left = _by_shape(bare, forms)
    left |= bare["perhaps_hashed"]
    if not left.any():
        return found
    return _put_rows(found, left, _one_by_one(cells.filter(left), forms))


def _is_vanity(value: pl.Expr) -> pl.Expr:
    letters = value.str.count_matches("[A-Za-z]") >= _VANITY_LETTERS
    return letters & value.str.contains(_VANITY) & value.str.contains(_VANITY_DIGITS)


def _one_by_one(cells: pl.DataFrame, forms: tuple[str, ...]) -> pl.DataFrame:
    """Way 3, after the cells that hold no number at all."""
    value = pl.col("value")
    known = pl.when(is_blank(value)).then(pl.lit("")).otherwise(hashed_already(value))
    distinct = cells.unique().with_columns(known=known)
    asked = distinct["known"].is_null()
    readings = [
        read_phone(value, region.upper())
        for value, region in distinct.filter(asked).select("value", "region").iter_rows()
    ]
    distinct = distinct.with_columns(
        put(
            distinct["known"],
            asked,
            pl.Series([getattr(reading, form) for reading in readings], dtype=pl.String),
        ).alias(form)
        for form in forms
    )
    found = cells.join(distinct, on=["value", "region"], how="left", maintain_order="left")
    return found.select(forms)


def _by_shape(cells: pl.DataFrame, forms: tuple[str, ...]) -> tuple[pl.DataFrame, pl.Series]:
    """Way 1: the forms, and where they are undecided; what is no plain number is undecided."""
    first, *further = _LEADING_DIGITS
    numbers = _read(cells).with_columns(shape=_shape(first)).collect()
    decisions = _decisions(numbers["shape"], first, forms)
    for leading in further:
        asked = (
            numbers["readable"]
            & (decisions[forms[0]] == _UNDECIDED)
            & (numbers["length"] > _LEADING_DIGITS[_LEADING_DIGITS.index(leading) - 1])
        )
        if asked.any():
            longer = numbers.filter(asked).select(_shape(leading)).to_series()
            decisions = _put_rows(decisions, asked, _decisions(longer, leading, forms))
    numbers = numbers.select("digits").hstack(decisions)
    written = numbers.select(_written(forms[0]))
    for form in forms[1:]:
        # In most lists no number has another form, and writing one costs as much as deciding it.
        differs = decisions[form] != decisions[forms[0]]
        others = numbers.filter(differs).select(_written(form)).to_series()
        column = put(written[forms[0]], differs, others) if differs.any() else written[forms[0]]
        written = written.with_columns(column.alias(form))
    return written, decisions[forms[0]] == _UNDECIDED


def _written(form: str) -> pl.Expr:
    """The form's integer and the number's digits, put together as text."""
    usable = pl.col(form).clip(_REJECTED)
    # The digits kept are the remainder by a power of ten.
    power = pl.lit(_POWERS_OF_TEN).gather(usable % _RADIX)
    number = (usable // _RADIX * power + pl.col("digits") % power).cast(pl.String)
    return pl.when(pl.col(form) > _REJECTED).then(number).alias(form)


def _read(cells: pl.DataFrame) -> pl.LazyFrame:
    """The numbers as integers: their digits, how many they are, and the plus sign as 0 or 1."""
    value, plain = pl.col("value"), pl.col("plain")
    readable = pl.col("digits").is_not_null() & (pl.col("bytes") <= _LONGEST_TEXT)
    return (
        cells.select("value", region=_region_numbers(cells["region"]))
        .lazy()
        .select(
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


def _decisions(numbers: pl.Series, leading: int, forms: tuple[str, ...]) -> pl.DataFrame:
    """The forms of each number by its shape."""
    distinct = numbers.unique()
    answers = [_decision(one, leading) for one in distinct]
    return pl.DataFrame(
        {
            form: numbers.replace_strict(
                distinct, [getattr(answer, form) for answer in answers], return_dtype=pl.Int64
            )
            for form in forms
        }
    )


@lru_cache(maxsize=500_000)
def _decision(shape: int, leading: int) -> _Forms:
    if shape == _UNREADABLE:
        return _NO_FORMS
    region, plus, digits, length = _unpacked(shape, leading)
    readings = shapes.read_shape(region, plus=plus, leading=digits, length=length)
    if isinstance(readings, shapes.Undecided):
        return _NO_FORMS
    return _Forms(*(_number_of_form(getattr(readings, form)) for form in FORMS))


@lru_cache(maxsize=500_000)
def _bare_spelling(shape: int, leading: int) -> int:
    region, _, digits, length = _unpacked(shape, leading)
    spelling = shapes.bare_spelling_of_shape(region, leading=digits, length=length)
    return _UNDECIDED if isinstance(spelling, shapes.Undecided) else _SPELLING_NUMBERS[spelling]


def _unpacked(shape: int, leading: int) -> tuple[str, bool, str, int]:
    """Region, plus sign, leading digits and length of a shape's integer."""
    outline, digits = divmod(shape, 10**leading)
    where, length = divmod(outline, _RADIX)
    number, plus = divmod(where, 2)
    first, second = divmod(number - 1, 26)
    region = (_LETTERS[first] + _LETTERS[second]).upper() if number else ""
    known = min(leading, length)
    return region, bool(plus), f"{digits:0{known}}", length


def _number_of_form(form: shapes.Form | None) -> int:
    return _REJECTED if form is None else form.prefix * _RADIX + form.digits
