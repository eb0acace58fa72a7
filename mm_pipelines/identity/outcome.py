"""The three outcomes of a cell: a value, no value, or a value that cannot be used.

Every normaliser of this package gives text where there is a value, ``""`` where the cell is blank
and null where something is written that is no value of its key.
"""

from collections.abc import Callable

import polars as pl

from mm_pipelines.identity.blank import WRITTEN_OUT_NULLS, is_blank
from mm_pipelines.identity.hashing import hashed_already
from mm_pipelines.identity.text import put

_NULLS = sorted(WRITTEN_OUT_NULLS)


def outcome(value: pl.Expr, normalised: pl.Expr) -> pl.Expr:
    """What becomes of a cell, given what its key's rule makes of it.

    Args:
        value: Text as it stands in the list; null is a blank cell.
        normalised: The value by its key's rule; null or ``""`` where the rule has no use for it.
    """
    return (
        pl.when(is_blank(value))
        .then(pl.lit(""))
        .otherwise(
            pl.coalesce(hashed_already(value), pl.when(normalised != "").then(normalised)),
        )
    )


def by_rule(
    values: pl.Series, rule: Callable[[pl.Expr], pl.Expr], *, plain_pattern: str
) -> pl.Series:
    """A column by its key's rule, several times faster where most values are plain.

    Args:
        values: Text as it stands in the list.
        rule: The key's normaliser.
        plain_pattern: What a trimmed value in lower case matches only if it is the rule's own
            outcome, unless it is a written-out null.
    """
    text = pl.col("value").str.strip_chars().str.to_lowercase()
    plain = pl.col("text").str.contains(plain_pattern) & ~pl.col("text").is_in(_NULLS)
    read = (
        values.to_frame("value")
        .lazy()
        .select("value", text=text)
        .select("value", "text", rest=~plain.fill_null(value=False))
        .collect()
    )
    if not read["rest"].any():
        return read["text"]
    others = read.filter("rest").select(rule(pl.col("value"))).to_series()
    return put(read["text"], read["rest"], others)
