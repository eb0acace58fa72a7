"""Normalise and hash identifiers: Polars in, Polars out, no I/O.

A wrongly normalised value hashes without complaint and matches nobody, so every rule stands in one
module of its family with its source, and blank cells never reach the hash.
"""

from mm_pipelines.identity.keys import COLUMNS, DATE_OF_BIRTH, IDENTIFIERS, KEYS
from mm_pipelines.identity.repeated import Remembered
from mm_pipelines.identity.rows import normalise, normalise_and_hash, regions

__all__ = [
    "COLUMNS",
    "DATE_OF_BIRTH",
    "IDENTIFIERS",
    "KEYS",
    "Remembered",
    "normalise",
    "normalise_and_hash",
    "regions",
]
