"""What libphonenumber makes of all numbers of one shape: region, plus sign, leading digits, length.

``phonenumbers`` parses one number at a time. Most of what it decides hangs on the first digits and
on the length alone, so that the decision is taken once per shape and then holds for a column: keep
so many digits from the end and put a country code before them, or reject. Every step follows
``phonenumberutil.parse``; where the unknown digits could change the outcome, ``decide`` says
``UNDECIDED`` and the numbers of that shape go to ``reference`` one by one.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, region_code_for_country_code

from mm_pipelines.identity.phone import patterns

#: Leading digits that a shape tells, at the first and at the second asking: enough for a country
#: code, and for one behind an international prefix such as 011.
LEADING_DIGITS = (3, 6)
#: The number of digits that a shape can have.
SHORTEST, LONGEST = 3, 18

_SHORTEST_NATIONAL, _LONGEST_NATIONAL = 2, 17


@dataclass(frozen=True)
class Kept:
    """A usable number: its country code, then its last ``digits`` digits."""

    country_code: int
    digits: int


@dataclass(frozen=True)
class Plan:
    """A numbering plan: what libphonenumber's metadata of a region say, as far as it is used."""

    country_code: int
    international_prefix: patterns.Node | None
    national_prefix: patterns.Node | None
    rewrites: bool  # a national prefix may be replaced, not only dropped
    national_number: patterns.Node
    possible: frozenset[int]
    longest: int


@cache
def _plan_of_region(region: str) -> Plan | None:
    metadata = PhoneMetadata.metadata_for_region(region, None) if region else None
    return None if metadata is None else _plan(metadata)


@cache
def _plan_of(country_code: int) -> Plan:
    """The plan of the main region among those that share a country code."""
    region = region_code_for_country_code(country_code)
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(country_code, region)
    if metadata is None:
        raise UNDECIDED
    return _plan(metadata)


def _plan(metadata: PhoneMetadata) -> Plan:
    desc = metadata.general_desc
    if metadata.country_code is None or desc is None:
        raise UNDECIDED
    number = desc.national_number_pattern
    possible = frozenset(desc.possible_length) - frozenset(desc.possible_length_local_only)
    return Plan(
        country_code=metadata.country_code,
        international_prefix=_pattern(metadata.international_prefix),
        national_prefix=_pattern(metadata.national_prefix_for_parsing),
        rewrites=bool(metadata.national_prefix_transform_rule),
        national_number=patterns.parse(number) if number else patterns.NOTHING,
        possible=possible,
        longest=max((*desc.possible_length, *desc.possible_length_local_only)),
    )


def _pattern(pattern: str | None) -> patterns.Node | None:
    return patterns.parse(pattern) if pattern else None


class Rejected:
    """No number of the shape can be used."""


class Undecided(Exception):
    """The digits that the shape does not tell could change the outcome."""


REJECTED, UNDECIDED = Rejected(), Undecided()
Decision = Kept | Rejected | Undecided


@dataclass(frozen=True)
class Shape:
    """All digit strings of ``length`` that begin with ``known``."""

    known: str
    length: int

    def without(self, count: int) -> "Shape":
        """The same numbers less their first ``count`` digits."""
        return Shape(self.known[count:], self.length - count)

    def starts_with(self, prefix: str) -> bool:
        """Whether all of them begin with ``prefix``, or none does."""
        told = self.known[: len(prefix)]
        if len(prefix) > self.length or told != prefix[: len(told)]:
            return False
        if len(told) < len(prefix):
            raise UNDECIDED
        return True


def decide(region: str, *, plus: bool, leading: str, length: int) -> Decision:
    """The outcome of ``reference.normalise_phone`` for all numbers of a shape.

    Args:
        region: Upper-case alpha-2 code, ``""`` where none is known.
        plus: Whether a plus sign stands before the digits.
        leading: The first digits.
        length: How many digits there are, the leading ones included.
    """
    # One digit decides for a hundred shapes of three, and asking it first is cheap.
    for told in range(1, len(leading) + 1):
        decision = _decide(region, plus, Shape(leading[:told], length))
        if not isinstance(decision, Undecided):
            return decision
    return UNDECIDED


@lru_cache(maxsize=200_000)
def _decide(region: str, plus: bool, shape: Shape) -> Decision:
    try:
        number = _parse(shape, _plan_of_region(region), plus=plus)
        if number is None and not plus:
            international = shape.without(2) if shape.starts_with("00") else shape
            number = _parse(international, None, plus=True)
    except (Undecided, patterns.UnknownSyntaxError):
        return UNDECIDED
    return number or REJECTED


def _parse(shape: Shape, home: Plan | None, *, plus: bool) -> Kept | None:
    if plus and shape.length <= _SHORTEST_NATIONAL:
        return None
    found = _country_code(shape) if plus else None
    if found is None and home is not None:
        try:
            found = _without_plus(shape, home)
        except _NoNumber:
            return None
    if found is not None:
        country_code, national = found
        plan = _plan_of(country_code)
        return _national(national, plan, plan)
    if plus or home is None:
        return None
    return _national(shape, home, _plan_of(home.country_code))


def _national(national: Shape, plan: Plan, main: Plan) -> Kept | None:
    if national.length < _SHORTEST_NATIONAL:
        return None
    stripped = _without_national_prefix(national, plan)
    # A number too short without its prefix keeps it: it may be a short number of its own.
    if stripped.length in plan.possible or stripped.length > plan.longest:
        national = stripped
    if not _SHORTEST_NATIONAL <= national.length <= _LONGEST_NATIONAL:
        return None
    return Kept(main.country_code, national.length) if national.length in main.possible else None


class _NoNumber(Exception):
    """The number cannot be parsed at all."""


def _country_code(shape: Shape) -> tuple[int, Shape] | None:
    for count in range(1, min(shape.length, 3) + 1):
        if len(shape.known) < count:
            raise UNDECIDED
        if shape.known[0] == "0":
            return None
        if int(shape.known[:count]) in COUNTRY_CODE_TO_REGION_CODE:
            return int(shape.known[:count]), shape.without(count)
    return None


def _without_plus(shape: Shape, home: Plan) -> tuple[int, Shape] | None:
    abroad = _without_international_prefix(shape, home)
    if abroad is not None:
        if abroad.length <= _SHORTEST_NATIONAL:
            raise _NoNumber
        found = _country_code(abroad)
        if found is None:
            raise _NoNumber
        return found
    own = str(home.country_code)
    if not shape.starts_with(own):
        return None
    national = _without_national_prefix(shape.without(len(own)), home)
    if shape.length > home.longest:
        return home.country_code, national
    whole, rest = _matches(shape, home), _matches(national, home)
    if whole is True or rest is False:
        return None
    if whole is False and rest is True:
        return home.country_code, national
    raise UNDECIDED


def _without_international_prefix(shape: Shape, home: Plan) -> Shape | None:
    if home.international_prefix is None:
        return None
    end = _match_end(home.international_prefix, shape)
    if end is None:
        return None
    rest = shape.without(end)
    # No country code begins with 0, so such a number is not taken as international.
    if rest.length > 0 and rest.starts_with("0"):
        return None
    return rest


def _without_national_prefix(shape: Shape, plan: Plan) -> Shape:
    pattern = plan.national_prefix
    if pattern is None or shape.length == 0:
        return shape
    if plan.rewrites:
        # A number that goes through a group may be rewritten, not only cut.
        if _match_end(patterns.through_groups(pattern), shape) is not None:
            raise UNDECIDED
        pattern = patterns.without_groups(pattern)
    end = _match_end(pattern, shape)
    if not end:
        return shape
    rest = shape.without(end)
    viable = _matches(shape, plan)
    if viable is False:
        return rest
    still_viable = _matches(rest, plan)
    if still_viable is True:
        return rest
    if viable is True and still_viable is False:
        return shape
    raise UNDECIDED


def _match_end(pattern: patterns.Node, shape: Shape) -> int | None:
    """Where the pattern's match at the start of the numbers ends; None if there is none."""
    ends = [0] if patterns.nullable(pattern) else []
    for position, digit in enumerate(shape.known, start=1):
        pattern = patterns.derivative(pattern, digit)
        if patterns.nullable(pattern):
            ends.append(position)
    left = shape.length - len(shape.known)
    open_ended = any(0 < length <= left for length in patterns.lengths(pattern))
    if open_ended or len(ends) > 1:
        # Which of several ways a regular expression prefers is not told by derivatives.
        raise UNDECIDED
    return ends[0] if ends else None


def _matches(shape: Shape, plan: Plan) -> bool | None:
    """Whether all of the numbers match the plan's pattern; None if only some may."""
    node = plan.national_number
    for digit in shape.known:
        node = patterns.derivative(node, digit)
    left = shape.length - len(shape.known)
    if left not in patterns.lengths(node):
        return False
    return True if patterns.matches_all(node, left) else None
