"""The readings of all numbers of one shape: region, plus sign, leading digits and length.

``phonenumbers`` parses one number at a time. Most of what it decides depends only on the first
digits and the length, so the decision is taken once per shape and holds for every number of it:
keep a count of digits from the end and put known digits before them, or reject. Every step follows
``phonenumberutil.parse`` and ``reference.read_phone``; where digits beyond the leading ones could
change the outcome, the result is ``UNDECIDED``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

from mm_pipelines.identity.phone.digit_patterns import UnknownSyntaxError
from mm_pipelines.identity.phone.numbering_plan import (
    Plan,
    Shape,
    UndecidedError,
    is_valid,
    main_plan,
    plan_of_region,
)
from mm_pipelines.identity.phone.reference import Spelling

SHORTEST, LONGEST = 3, 18
"""The number of digits that a shape can have."""

_SHORTEST_NATIONAL, _LONGEST_NATIONAL = 2, 17
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Form:
    """A usable number: the known digits ``prefix``, then the written number's last ``digits``."""

    prefix: int
    digits: int


@dataclass(frozen=True, slots=True)
class ShapeReadings:
    """``reference.PhoneReadings`` for a shape; None where the numbers cannot be used."""

    international: Form | None
    national: Form | None
    libphonenumber: Form | None


class Undecided:
    """The leading digits do not decide."""


UNDECIDED = Undecided()


@dataclass(frozen=True, slots=True)
class _Number:
    """A parsed, possible number."""

    country_code: int
    national: Shape
    by_prefix: bool = False

    @property
    def form(self) -> Form:
        known = self.national.known[: self.national.length - self.national.kept]
        return Form(int(f"{self.country_code}{known}"), self.national.kept)

    @property
    def valid(self) -> bool:
        return is_valid(self.national, self.country_code)


def read_shape(region: str, *, plus: bool, leading: str, length: int) -> ShapeReadings | Undecided:
    """The outcome of ``reference.read_phone`` for all numbers of a shape.

    Args:
        region: Upper-case alpha-2 code, ``""`` where none is known.
        plus: Whether a plus sign precedes the digits.
        leading: The first digits.
        length: How many digits there are, the leading ones included.
    """
    return _by_fewest_digits(_read, region, plus, leading, length)


def bare_spelling_of_shape(
    region: str, *, leading: str, length: int
) -> Spelling | Undecided | None:
    """The outcome of ``reference.bare_spelling`` for all numbers of a shape."""
    return _by_fewest_digits(_bare_spelling, region, False, leading, length)


def _by_fewest_digits(
    read: Callable[[str, bool, Shape], _Answer | Undecided],
    region: str,
    plus: bool,
    leading: str,
    length: int,
) -> _Answer | Undecided:
    # One known digit decides for many shapes at once, and its result is cached.
    for known in range(1, len(leading) + 1):
        answer = read(region, plus, Shape(leading[:known], length, length))
        if not isinstance(answer, Undecided):
            return answer
    return UNDECIDED


@lru_cache(maxsize=200_000)
def _read(region: str, plus: bool, shape: Shape) -> ShapeReadings | Undecided:
    try:
        home = plan_of_region(region)
        own = _parse(shape, home, plus=plus)
        if home is None or plus:
            return _same(own or (None if plus else _abroad(shape)))
        alone = _form(own or _abroad(shape))
        own = _with_trunk_prefix(shape, home, own)
        if own is None:
            return _same(_abroad(shape))
        international, national = _by_order(shape, home, own)
        return ShapeReadings(international.form, national.form, alone)
    except (UndecidedError, UnknownSyntaxError):
        return UNDECIDED


def _with_trunk_prefix(shape: Shape, home: Plan, own: _Number | None) -> _Number | None:
    if not home.trunk_prefix or not shape.starts_with(home.trunk_prefix):
        return own
    if shape.starts_with("00") or (own and own.by_prefix):
        return own
    plan = main_plan(home.country_code)
    national = _possible(shape.without(len(home.trunk_prefix)), plan, plan, by_prefix=False)
    if national is None or (own and own.form == national.form) or not national.valid:
        return own
    return own if own and own.valid else national


def _by_order(shape: Shape, home: Plan, own: _Number) -> tuple[_Number, _Number]:
    """The number if the list's convention is international, and if it is national."""
    zero_zero = shape.starts_with("00")
    if not zero_zero and (own.by_prefix or not shape.starts_with(str(home.country_code))):
        return own, own
    abroad = _abroad(shape)
    if abroad is None or abroad.form == own.form:
        return own, own
    if zero_zero:
        chosen = own if own.by_prefix and not abroad.valid and own.valid else abroad
        return chosen, chosen
    if own.valid != abroad.valid:
        valid = own if own.valid else abroad
        return valid, valid
    return abroad, own


@lru_cache(maxsize=200_000)
def _bare_spelling(region: str, _plus: bool, shape: Shape) -> Spelling | Undecided | None:
    try:
        home = plan_of_region(region)
        if home is None or shape.starts_with("00"):
            return None
        if home.trunk_prefix and shape.starts_with(home.trunk_prefix):
            return None
        own = _parse(shape, home, plus=False)
        if own and own.by_prefix:
            return None
        national = own is not None and own.national == shape and own.valid
        abroad = _abroad(shape) if shape.starts_with(str(home.country_code)) else None
        international = abroad is not None and abroad.valid
    except (UndecidedError, UnknownSyntaxError):
        return UNDECIDED
    if international == national:
        return None
    return "international" if international else "national"


def _form(number: _Number | None) -> Form | None:
    return None if number is None else number.form


def _same(number: _Number | None) -> ShapeReadings:
    form = _form(number)
    return ShapeReadings(form, form, form)


def _abroad(shape: Shape) -> _Number | None:
    international = shape.without(2) if shape.starts_with("00") else shape
    return _parse(international, None, plus=True)


def _parse(shape: Shape, home: Plan | None, *, plus: bool) -> _Number | None:
    """``phonenumberutil.parse``, and None for what is no possible number."""
    if plus and shape.length <= _SHORTEST_NATIONAL:
        return None
    found = _country_code(shape) if plus else None
    by_prefix = False
    if found is None and home is not None:
        try:
            found, by_prefix = _without_plus(shape, home)
        except _NoNumberError:
            return None
    if found is not None:
        country_code, national = found
        plan = main_plan(country_code)
        return _possible(national, plan, plan, by_prefix=by_prefix)
    if plus or home is None:
        return None
    return _possible(shape, home, main_plan(home.country_code), by_prefix=False)


def _possible(national: Shape, plan: Plan, main: Plan, *, by_prefix: bool) -> _Number | None:
    if national.length < _SHORTEST_NATIONAL:
        return None
    stripped = _without_national_prefix(national, plan)
    # A number too short without its prefix keeps it: it may be a short number of its own.
    if stripped.length in plan.possible or stripped.length > plan.longest:
        national = stripped
    if not _SHORTEST_NATIONAL <= national.length <= _LONGEST_NATIONAL:
        return None
    if national.length not in main.possible:
        return None
    return _Number(main.country_code, national, by_prefix)


class _NoNumberError(Exception):
    """The number cannot be parsed at all."""


def _country_code(shape: Shape) -> tuple[int, Shape] | None:
    for count in range(1, min(shape.length, 3) + 1):
        if len(shape.known) < count:
            raise UndecidedError
        if shape.known[0] == "0":
            return None
        if int(shape.known[:count]) in COUNTRY_CODE_TO_REGION_CODE:
            return int(shape.known[:count]), shape.without(count)
    return None


def _without_plus(shape: Shape, home: Plan) -> tuple[tuple[int, Shape] | None, bool]:
    """The country code and what follows it, if any, and whether an international prefix is left."""
    abroad = _without_international_prefix(shape, home)
    if abroad is not None:
        if abroad.length <= _SHORTEST_NATIONAL:
            raise _NoNumberError
        found = _country_code(abroad)
        if found is None:
            raise _NoNumberError
        return found, True
    own = str(home.country_code)
    if not shape.starts_with(own):
        return None, False
    national = _without_national_prefix(shape.without(len(own)), home)
    if shape.length > home.longest:
        return (home.country_code, national), False
    whole, rest = home.is_viable(shape), home.is_viable(national)
    if whole is True or rest is False:
        return None, False
    if whole is False and rest is True:
        return (home.country_code, national), False
    raise UndecidedError


def _without_international_prefix(shape: Shape, home: Plan) -> Shape | None:
    if home.international_prefix is None:
        return None
    match = home.international_prefix.match(shape)
    if match is None:
        return None
    rest = shape.without(match.end())
    # No country code begins with 0, so such a number is not taken as international.
    if rest.length > 0 and rest.starts_with("0"):
        return None
    return rest


def _without_national_prefix(shape: Shape, plan: Plan) -> Shape:
    if plan.national_prefix is None or shape.length == 0:
        return shape
    match = plan.national_prefix.match(shape)
    if match is None or not match.end():
        return shape
    groups = match.groups()
    if plan.transform_rule and groups and groups[-1] is not None:
        rest = _transformed(shape, match, plan.transform_rule)
    else:
        rest = shape.without(match.end())
    viable = plan.is_viable(shape)
    if viable is False:
        return rest
    still_viable = plan.is_viable(rest)
    if still_viable is True:
        return rest
    if viable is True and still_viable is False:
        return shape
    raise UndecidedError


def _transformed(shape: Shape, match: re.Match[str], rule: str) -> Shape:
    """The strings with the matched prefix replaced, as ``re.sub`` does."""
    # Every rule ends with a group, such as "9\\1".
    inserted, group = rule[:-2], int(rule[-1])
    if match.end(group) == match.end():
        rest = shape.without(match.start(group))
    elif match.end() <= len(shape.known):
        inserted = match.expand(rule)
        rest = shape.without(match.end())
    else:
        raise UndecidedError
    return Shape(inserted + rest.known, len(inserted) + rest.length, rest.kept)
