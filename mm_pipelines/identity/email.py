"""EMAIL: trimmed and in lower case, nothing else.

Dots and plus tags stay: dropping them is Google's rule for its own addresses, not Meta's.
"""

import polars as pl

from mm_pipelines.identity.cells import outcome
from mm_pipelines.identity.text import lower, trimmed

_LABEL = r"[^\s@,;:<>()\[\]\\\".\x00-\x1f]+"
_LOCAL = r"[^\s@,;:<>()\[\]\\\"\x00-\x1f]+"

ADDRESS_PATTERN = rf"^{_LOCAL}@{_LABEL}(?:\.{_LABEL})+$"
"""One ``@``, a domain of two labels or more, no white space and no separator of addresses."""

PLAIN_ADDRESS_PATTERN = r"^[a-z0-9._%+\-]+@(?:[a-z0-9\-]+\.)+[a-z0-9\-]+$"
"""Addresses that need only to be trimmed and set in lower case."""


def email(value: pl.Expr) -> pl.Expr:
    """An e-mail address, trimmed, lower case, NFC; null where it is not an address."""
    text = lower(trimmed(value))
    return outcome(value, pl.when(text.str.contains(ADDRESS_PATTERN)).then(text))
