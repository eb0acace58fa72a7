"""What a regular expression says about all numbers that begin with the same digits.

libphonenumber's metadata describe numbering plans by regular expressions over digits. To decide
for a whole column at once, one must know what a pattern says of *every* number with given leading
digits and a given length. The patterns use a small language (digits, classes, groups, ``|``, ``?``,
``{m,n}``, ``$``), so that Brzozowski derivatives answer exactly: the derivative of a pattern by a
digit is the pattern of what may follow that digit.
"""

from dataclasses import dataclass
from functools import lru_cache

DIGITS = "0123456789"
LONGEST = 24  # no number that reaches the patterns is longer


class UnknownSyntaxError(ValueError):
    """A pattern uses something that this reading of regular expressions does not know."""


@dataclass(frozen=True)
class Nothing:
    """Matches no text at all."""


@dataclass(frozen=True)
class Empty:
    """Matches the empty text."""


@dataclass(frozen=True)
class Digit:
    """Matches one digit of a set."""

    among: frozenset[str]


@dataclass(frozen=True)
class Sequence:
    """Matches one part, then the other."""

    first: "Node"
    rest: "Node"


@dataclass(frozen=True)
class Choice:
    """Matches what any of the parts matches."""

    parts: frozenset["Node"]


@dataclass(frozen=True)
class Group:
    """A capturing group."""

    inner: "Node"


Node = Nothing | Empty | Digit | Sequence | Choice | Group
NOTHING, EMPTY = Nothing(), Empty()


def sequence(first: Node, rest: Node) -> Node:
    """One after the other, simplified."""
    if first == NOTHING or rest == NOTHING:
        return NOTHING
    if first == EMPTY:
        return rest
    if rest == EMPTY:
        return first
    if isinstance(first, Sequence):
        return sequence(first.first, sequence(first.rest, rest))
    return Sequence(first, rest)


def choice(*nodes: Node) -> Node:
    """Either of them, simplified."""
    parts: set[Node] = set()
    for node in nodes:
        parts |= node.parts if isinstance(node, Choice) else {node}
    parts.discard(NOTHING)
    if not parts:
        return NOTHING
    return next(iter(parts)) if len(parts) == 1 else Choice(frozenset(parts))


@lru_cache(maxsize=100_000)
def nullable(node: Node) -> bool:
    """Whether the empty text matches."""
    match node:
        case Empty():
            return True
        case Sequence(first, rest):
            return nullable(first) and nullable(rest)
        case Choice(parts):
            return any(nullable(part) for part in parts)
        case Group(inner):
            return nullable(inner)
    return False


@lru_cache(maxsize=200_000)
def derivative(node: Node, digit: str) -> Node:
    """The pattern of what may follow ``digit``."""
    match node:
        case Digit(among):
            return EMPTY if digit in among else NOTHING
        case Sequence(first, rest):
            after = sequence(derivative(first, digit), rest)
            return choice(after, derivative(rest, digit)) if nullable(first) else after
        case Choice(parts):
            return choice(*(derivative(part, digit) for part in parts))
        case Group(inner):
            return derivative(inner, digit)
    return NOTHING


@lru_cache(maxsize=200_000)
def derivative_by(node: Node, digits: str) -> Node:
    """The pattern of what may follow ``digits``."""
    return derivative(derivative_by(node, digits[:-1]), digits[-1]) if digits else node


@lru_cache(maxsize=100_000)
def lengths(node: Node) -> frozenset[int]:
    """The lengths of the texts that match, up to ``LONGEST``."""
    match node:
        case Empty():
            return frozenset({0})
        case Digit():
            return frozenset({1})
        case Sequence(first, rest):
            sums = {one + other for one in lengths(first) for other in lengths(rest)}
            return frozenset(length for length in sums if length <= LONGEST)
        case Choice(parts):
            return frozenset().union(*(lengths(part) for part in parts))
        case Group(inner):
            return lengths(inner)
    return frozenset()


@lru_cache(maxsize=200_000)
def matches_all(node: Node, length: int) -> bool:
    """Whether every text of ``length`` digits matches."""
    if length not in lengths(node):
        return False
    if length == 0:
        return True
    return all(matches_all(derivative(node, digit), length - 1) for digit in DIGITS)


@lru_cache(maxsize=100_000)
def ignores_digits(node: Node) -> bool:
    """Whether only the number of digits counts, whichever way through the pattern is taken."""
    match node:
        case Digit(among):
            return len(among) == len(DIGITS)
        case Sequence(first, rest):
            return ignores_digits(first) and ignores_digits(rest)
        case Choice(parts):
            return all(ignores_digits(part) for part in parts)
        case Group(inner):
            return ignores_digits(inner)
    return True


@lru_cache(maxsize=2_000)
def parse(pattern: str) -> Node:
    """Read a pattern.

    Raises:
        UnknownSyntaxError: It uses what the metadata's patterns did not use until now.
    """
    node, rest = _choice(pattern)
    if rest:
        raise UnknownSyntaxError(pattern)
    return node


def _choice(text: str) -> tuple[Node, str]:
    node, text = _sequence(text)
    while text.startswith("|"):
        other, text = _sequence(text[1:])
        node = choice(node, other)
    return node, text


def _sequence(text: str) -> tuple[Node, str]:
    node: Node = EMPTY
    while text and text[0] not in "|)":
        item, text = _item(text)
        low, high, text = _repetition(text)
        for count in range(high):
            again = item if count < low else choice(EMPTY, item)
            node = sequence(node, again)
    return node, text


def _item(text: str) -> tuple[Node, str]:
    if text.startswith("(?:"):
        node, text = _choice(text[3:])
    elif text.startswith("(") and not text.startswith("(?"):
        node, text = _choice(text[1:])
        node = Group(node)
    elif text.startswith("["):
        inside, _, text = text[1:].partition("]")
        return Digit(_among(inside)), text
    elif text.startswith("\\d"):
        return Digit(frozenset(DIGITS)), text[2:]
    elif text.startswith("$"):
        # Read as nothing: the pattern then matches more, which only leaves more undecided.
        return EMPTY, text[1:]
    elif text[0] in DIGITS:
        return Digit(frozenset(text[0])), text[1:]
    else:
        raise UnknownSyntaxError(text)
    if not text.startswith(")"):
        raise UnknownSyntaxError(text)
    return node, text[1:]


def _among(inside: str) -> frozenset[str]:
    digits: set[str] = set()
    while inside:
        if inside[1:2] == "-":
            digits |= {str(digit) for digit in range(int(inside[0]), int(inside[2]) + 1)}
            inside = inside[3:]
        elif inside[0] in DIGITS:
            digits.add(inside[0])
            inside = inside[1:]
        else:
            raise UnknownSyntaxError(inside)
    return frozenset(digits)


def _repetition(text: str) -> tuple[int, int, str]:
    if text.startswith("?"):
        return 0, 1, text[1:]
    if text.startswith("{"):
        inside, _, text = text[1:].partition("}")
        low, _, high = inside.partition(",")
        return int(low), int(high or low), text
    if text[:1] in ("*", "+"):
        raise UnknownSyntaxError(text)
    return 1, 1, text
