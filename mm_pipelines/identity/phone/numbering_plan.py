"""A region's numbering plan as three-valued answers about all numbers of one shape.

A shape is a set of digit strings: their length and their first digits are known, the rest is not.
Each question is answered for all of them at once, from libphonenumber's metadata; if the unknown
digits could change the answer, ``UndecidedError`` is raised or None returned.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    PhoneMetadata,
    PhoneNumberDesc,
    region_code_for_country_code,
)

from mm_pipelines.identity.phone import digit_patterns as patterns

_TYPES = (
    "premium_rate", "toll_free", "shared_cost", "voip", "personal_number", "pager", "uan",
    "voicemail", "fixed_line", "mobile",
)  # fmt: skip
_ANY_DIGIT = "0"
_NEVER = re.compile(r"(?!)")


class UndecidedError(Exception):
    """The digits that the shape leaves open could change the outcome."""


@dataclass(frozen=True, slots=True)
class Shape:
    """All digit strings of ``length`` that begin with ``known``.

    Attributes:
        kept: How many of the last digits are digits of the written number, in place. The digits
            before them are known.
    """

    known: str
    length: int
    kept: int

    def without(self, count: int) -> "Shape":
        """The same strings less their first ``count`` digits."""
        left = self.length - count
        return Shape(self.known[count:], left, min(self.kept, left))

    def starts_with(self, prefix: str) -> bool:
        """Whether all of them begin with ``prefix``, or none does."""
        known = self.known[: len(prefix)]
        if len(prefix) > self.length or known != prefix[: len(known)]:
            return False
        if len(known) < len(prefix):
            raise UndecidedError
        return True


@dataclass(frozen=True)
class Pattern:
    """One regular expression of the metadata, and the lengths that it applies to."""

    expression: re.Pattern[str]
    node: patterns.Node
    lengths: frozenset[int]

    def match(self, shape: Shape) -> re.Match[str] | None:
        """The expression's match at the start of the strings.

        Raises:
            UndecidedError: It depends on digits that are not known.
        """
        node = patterns.derivative_by(self.node, shape.known)
        left = shape.length - len(shape.known)
        reaches_on = any(0 < length <= left for length in patterns.lengths(node))
        if reaches_on and not patterns.ignores_digits(node):
            raise UndecidedError
        return self.expression.match(shape.known + _ANY_DIGIT * left)

    def matches(self, shape: Shape) -> bool | None:
        """Whether the expression matches all of the strings to their end; None if only some."""
        if self.lengths and shape.length not in self.lengths:
            return False
        node = patterns.derivative_by(self.node, shape.known)
        left = shape.length - len(shape.known)
        if left not in patterns.lengths(node):
            return False
        return True if patterns.matches_all(node, left) else None


@dataclass(frozen=True)
class Plan:
    """What libphonenumber's metadata say of one region, as far as it is used."""

    country_code: int
    international_prefix: Pattern | None
    trunk_prefix: str
    national_prefix: Pattern | None
    transform_rule: str
    national_number: Pattern
    leading_digits: Pattern | None
    types: tuple[Pattern, ...]
    possible: frozenset[int]
    possible_with_local: frozenset[int]
    longest: int

    def is_viable(self, shape: Shape) -> bool | None:
        """Whether the strings match the general pattern, which is weaker than to be valid."""
        return self.national_number.matches(shape)

    def has_type(self, shape: Shape) -> bool | None:
        """Whether the strings are numbers of a known type, such as mobile."""
        if shape.length not in self.possible_with_local:
            return False
        viable = self.is_viable(shape)
        if viable is False:
            return False
        typed = self._any_type(shape.length).matches(shape)
        return typed if viable or typed is False else None

    @cache  # noqa: B019 - plans live as long as the process
    def _any_type(self, length: int) -> Pattern:
        """The pattern of all types that have numbers of a length."""
        nodes = (type_.node for type_ in self.types if length in (type_.lengths or {length}))
        return Pattern(_NEVER, patterns.choice(*nodes), frozenset())


@cache
def plan_of_region(region: str) -> Plan | None:
    """The plan of a region by its upper-case alpha-2 code; None if libphonenumber has none."""
    metadata = PhoneMetadata.metadata_for_region(region, None) if region else None
    return None if metadata is None else _plan(metadata)


@cache
def main_plan(country_code: int) -> Plan:
    """The plan of the main region among those that share a country code."""
    return _plan_in(region_code_for_country_code(country_code), country_code)


def is_valid(shape: Shape, country_code: int) -> bool:
    """Whether the strings are valid national numbers (``phonenumbers.is_valid_number``).

    Raises:
        UndecidedError: Only some of them are.
    """
    regions = COUNTRY_CODE_TO_REGION_CODE[country_code]
    if len(regions) == 1:
        return _decided(_plan_in(regions[0], country_code).has_type(shape))
    for region in regions:
        plan = _plan_in(region, country_code)
        # The first region that claims the number decides.
        if plan.leading_digits is None:
            if _decided(plan.has_type(shape)):
                return True
        elif plan.leading_digits.match(shape):
            return _decided(plan.has_type(shape))
    return False


def _decided(answer: bool | None) -> bool:
    if answer is None:
        raise UndecidedError
    return answer


@cache
def _plan_in(region: str, country_code: int) -> Plan:
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(country_code, region)
    if metadata is None:
        raise UndecidedError
    return _plan(metadata)


def _plan(metadata: PhoneMetadata) -> Plan:
    general = metadata.general_desc
    if metadata.country_code is None or general is None:
        raise UndecidedError
    types = (getattr(metadata, type_) for type_ in _TYPES)
    return Plan(
        country_code=metadata.country_code,
        international_prefix=_pattern(metadata.international_prefix),
        trunk_prefix=(metadata.national_prefix or "").replace("~", ""),
        national_prefix=_pattern(metadata.national_prefix_for_parsing),
        transform_rule=metadata.national_prefix_transform_rule or "",
        national_number=_pattern(general.national_number_pattern) or _NO_NUMBER,
        leading_digits=_pattern(metadata.leading_digits),
        types=tuple(filter(None, map(_of_type, types))),
        possible=frozenset(general.possible_length) - frozenset(general.possible_length_local_only),
        possible_with_local=frozenset(general.possible_length),
        longest=max((*general.possible_length, *general.possible_length_local_only)),
    )


def _of_type(description: PhoneNumberDesc | None) -> Pattern | None:
    if description is None:
        return None
    return _pattern(description.national_number_pattern, tuple(description.possible_length))


@lru_cache(maxsize=5_000)
def _pattern(expression: str | None, lengths: tuple[int, ...] = ()) -> Pattern | None:
    if not expression:
        return None
    return Pattern(re.compile(expression), patterns.parse(expression), frozenset(lengths))


_NO_NUMBER = Pattern(_NEVER, patterns.NOTHING, frozenset())
