"""The three outcomes of a cell: a value, no value, or a value that cannot be used.

Every normaliser of this package gives text where there is a value, ``""`` where the cell is blank
and null where something is written that is no value of its key.
"""

import polars as pl

from mm_pipelines.identity.blank import is_blank
from mm_pipelines.identity.hashing import hashed_already


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
