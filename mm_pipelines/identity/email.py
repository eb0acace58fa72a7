"""EMAIL: trimmed and in lower case, nothing else (graph-api-facts 2.7, Meta's customer file guide).

Dots and plus tags stay: dropping them is Google's rule for its own addresses, not Meta's.
"""

import polars as pl

from mm_pipelines.identity.outcome import outcome
from mm_pipelines.identity.text import lower, trimmed

_LABEL = r"[^\s@,;:<>()\[\]\\\".\x00-\x1f]+"
_LOCAL = r"[^\s@,;:<>()\[\]\\\"\x00-\x1f]+"

#: One ``@``, a domain of two labels or more, no white space and none of the signs that stand
#: between addresses: what is not of this form is no single address.
ADDRESS_PATTERN = rf"^{_LOCAL}@{_LABEL}(?:\.{_LABEL})+$"

#: Addresses that are as they should be once trimmed and in lower case.
PLAIN_ADDRESS_PATTERN = r"^[a-z0-9._%+\-]+@(?:[a-z0-9\-]+\.)+[a-z0-9\-]+$"


def email(value: pl.Expr) -> pl.Expr:
    """An e-mail address, trimmed, lower case, NFC; null where it is no address."""
    text = lower(trimmed(value))
    return outcome(value, pl.when(text.str.contains(ADDRESS_PATTERN)).then(text))
