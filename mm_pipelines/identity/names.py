"""FN, LN and FI: lower case, no punctuation, letters of any script kept.

The official SDK cuts names to the letters a to z, which leaves nothing of ``정`` and half of
``Valéry``; Meta's guide keeps UTF-8 letters and prints the hash of both.
"""

import polars as pl

from mm_pipelines.identity.cells import outcome
from mm_pipelines.identity.text import composed

PLAIN_NAME_PATTERN = r"^[a-z0-9\x{DF}-\x{F6}\x{F8}-\x{17F}\x{1EA0}-\x{1EFF}]+$"
"""Names that need only to be trimmed and set in lower case; written-out nulls match too. The
letters with accents are single code points, which NFC does not change."""

_NOT_LETTERS = r"[^\p{L}\p{M}\p{N}]+"


def name(value: pl.Expr) -> pl.Expr:
    """A first or last name: NFC, lower case, without punctuation, symbols and spaces."""
    return outcome(value, _letters(value))


def first_initial(value: pl.Expr) -> pl.Expr:
    """The first letter of a first name, in lower case."""
    return outcome(value, _letters(value).str.head(1))


def _letters(value: pl.Expr) -> pl.Expr:
    # Composed last: a removed sign may have separated a letter from its accent.
    return composed(value.str.to_lowercase().str.replace_all(_NOT_LETTERS, ""))
