"""EMAIL: trimmed and in lower case, nothing else (graph-api-facts 2.7, Meta's customer file guide).

Dots and plus tags stay: dropping them is Google's rule for its own addresses, not Meta's.
"""

import polars as pl

from mm_pipelines.identity.blank import UNSEEN
from mm_pipelines.identity.outcome import outcome

_LABEL = r"[^\s@,;:<>()\[\]\\\".\x00-\x1f]+"
_LOCAL = r"[^\s@,;:<>()\[\]\\\"\x00-\x1f]+"

#: One ``@``, a domain of two labels or more, no white space and none of the signs that stand
#: between addresses: what is not of this form is no single address.
ADDRESS_PATTERN = rf"^{_LOCAL}@{_LABEL}(?:\.{_LABEL})+$"

# What needs no second look: such a text matches ADDRESS_PATTERN and is its own NFC.
_PLAIN_ADDRESS = r"^[a-z0-9._%+\-]+@(?:[a-z0-9\-]+\.)+[a-z0-9\-]+$"


def email(value: pl.Expr) -> pl.Expr:
    """An e-mail address, trimmed, lower case, NFC; null where it is no address."""
    text = value.str.strip_chars(UNSEEN).str.to_lowercase().str.normalize("NFC")
    return outcome(value, pl.when(text.str.contains(ADDRESS_PATTERN)).then(text))


def emails(values: pl.Series) -> pl.Series:
    """A whole column of ``email``, several times faster where most are plain addresses."""
    text = values.str.strip_chars().str.to_lowercase()
    plain = text.str.contains(_PLAIN_ADDRESS).fill_null(value=False)
    if plain.all():
        return text
    rest = values.filter(~plain).to_frame("value").select(email(pl.col("value"))).to_series()
    places = (~plain).cum_sum().cast(pl.Int64) - 1
    return text.zip_with(plain, rest.gather(places.clip(0)))
