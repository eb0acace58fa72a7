"""MADID and EXTERN_ID, which are uploaded as they are, not hashed (graph-api-facts 2.7)."""

import polars as pl

from mm_pipelines.identity.blank import is_blank
from mm_pipelines.identity.outcome import outcome
from mm_pipelines.identity.text import trimmed


def mobile_advertiser_id(value: pl.Expr) -> pl.Expr:
    """A mobile advertiser id in lower case, hyphens kept.

    The id of zeros stands for all who turned tracking off: it is nobody's.
    """
    text = trimmed(value).str.to_lowercase()
    somebody = text.str.contains(r"^[0-9a-z-]+$") & text.str.contains(r"[1-9a-z]")
    return outcome(value, pl.when(somebody).then(text))


def external_id(value: pl.Expr) -> pl.Expr:
    """The advertiser's own id for the person, as it is; its case may tell people apart."""
    return pl.when(is_blank(value)).then(pl.lit("")).otherwise(trimmed(value))
