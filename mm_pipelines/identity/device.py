"""MADID and EXTERN_ID, which are uploaded in plain, not hashed."""

import polars as pl

from mm_pipelines.identity.cells import is_blank, outcome
from mm_pipelines.identity.text import trimmed


def mobile_advertiser_id(value: pl.Expr) -> pl.Expr:
    """A mobile advertiser id in lower case, hyphens kept.

    All zeros is the value of every device whose owner turned tracking off; it identifies no one.
    """
    text = trimmed(value).str.to_lowercase()
    identifying = text.str.contains(r"^[0-9a-z-]+$") & text.str.contains(r"[1-9a-z]")
    return outcome(value, pl.when(identifying).then(text))


def external_id(value: pl.Expr) -> pl.Expr:
    """The advertiser's own id for the person, unchanged: its case may distinguish people."""
    return pl.when(is_blank(value)).then(pl.lit("")).otherwise(trimmed(value))
