"""The three outcomes of a cell: a value, no value, or a value that cannot be used.

Every normalizer of this package gives text where there is a value, ``""`` where the cell is blank
and null where the text is no value of its key.
"""

from collections.abc import Callable

import polars as pl

from mm_pipelines.identity.hashing import hashed_already
from mm_pipelines.identity.text import put, trimmed

WRITTEN_OUT_NULLS = frozenset(
    {
        "null", "(null)", "<null>", "none", "nan", "n/a", "<na>", "nil", "undefined", "\\n",
        "-", "--", "---", "\N{EN DASH}", "\N{EM DASH}",
        "#n/a", "#n/a n/a", "#ref!", "#value!", "#name?", "#null!", "#num!", "#div/0!",
        "#error!", "#spill!", "#calc!", "#getting_data",
    }
)  # fmt: skip
"""Written-out nulls of databases and languages, and the errors that spreadsheets leave in a
cell."""
_NULLS = sorted(WRITTEN_OUT_NULLS)


def is_blank(value: pl.Expr) -> pl.Expr:
    """Whether a cell holds no value: empty, a written-out null, a spreadsheet's error.

    Args:
        value: The cell's text; null counts as blank.
    """
    return trimmed(value.fill_null("")).str.to_lowercase().is_in(["", *_NULLS])


def outcome(value: pl.Expr, normalized: pl.Expr) -> pl.Expr:
    """The outcome of a cell, given the result of its key's rule.

    Args:
        value: The cell's text; null is a blank cell.
        normalized: The value by its key's rule; null or ``""`` where the rule rejects it.
    """
    return (
        pl.when(is_blank(value))
        .then(pl.lit(""))
        .otherwise(
            pl.coalesce(hashed_already(value), pl.when(normalized != "").then(normalized)),
        )
    )


def apply_rule(
    values: pl.Series, rule: Callable[[pl.Expr], pl.Expr], *, plain_pattern: str
) -> pl.Series:
    """A column by its key's rule, several times faster where most values are plain.

    Args:
        values: The cells' text.
        rule: The key's normalizer.
        plain_pattern: A trimmed value in lower case matches it only if the rule returns that value
            unchanged, unless it is a written-out null.
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
