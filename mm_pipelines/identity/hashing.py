"""SHA-256 in the form that Meta takes: lower-case hex, and never of the empty string."""

import polars as pl
from polars_hash import CryptographicHashingNameSpace

from mm_pipelines.identity.text import trimmed

HASHED_PATTERN = r"^[0-9a-fA-F]{64}$"
"""A value that the list already holds as a hash."""
HASH_DIGITS = 64


def hashed_already(value: pl.Expr) -> pl.Expr:
    """The value in lower case where it is 64 hex digits, padded or not; null elsewhere."""
    text = trimmed(value)
    return pl.when(is_hash(text)).then(text.str.to_lowercase())


def is_hash(value: pl.Expr) -> pl.Expr:
    """Whether a value is 64 hex digits; the length is tested first because that is cheap."""
    return (value.str.len_bytes() == HASH_DIGITS) & value.str.contains(HASHED_PATTERN)


def sha256(values: pl.Series) -> pl.Series:
    """SHA-256 of normalized text as 64 lower-case hex digits.

    ``""`` stays ``""`` (the hash of the empty string is no person's), null stays null, and 64 hex
    digits pass through.
    """
    value = pl.col("value")
    hashed = values.to_frame("value").select(
        "value",
        digest=CryptographicHashingNameSpace(value).sha2_256(),
        kept=value.str.len_bytes().is_in([0, HASH_DIGITS]).fill_null(value=False),
    )
    digests = hashed["digest"].alias(values.name)
    if not hashed["kept"].any():
        return digests
    kept = hashed.select(pl.col("kept") & ((value == "") | is_hash(value))).to_series()
    return values.zip_with(kept, digests)
