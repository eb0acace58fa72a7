"""Meta's times: seconds or milliseconds since 1970, as numbers or as text.

The unit follows from the size (docs/graph-api.md#q3-timestamp-unit).
"""

from datetime import UTC, datetime
from typing import Any

MILLISECONDS_FROM = 10**11
"""Smaller numbers are seconds."""

_MOST_DIGITS = 20


def whole_number(value: Any) -> int | None:
    """A whole number given as a number or as digits; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value) if len(value) <= _MOST_DIGITS else None
    return None


def epoch_milliseconds(value: Any) -> int | None:
    """A time of either unit in milliseconds; None if it is no whole number."""
    number = whole_number(value)
    if number is None:
        return None
    return number * 1000 if number < MILLISECONDS_FROM else number


def epoch_time(value: Any) -> datetime | None:
    """A time of either unit, in UTC; None for 0 and less, which mean never, and for no time."""
    milliseconds = epoch_milliseconds(value)
    if milliseconds is None or milliseconds <= 0:
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
