"""Normalize and hash identifiers: Polars in, Polars out, no I/O.

A wrongly normalized value hashes without an error and matches no one, so each family of keys has
one module with its rules and their source, and a blank cell is never hashed.
"""

from mm_pipelines.identity.cells import is_blank
from mm_pipelines.identity.distinct_cache import DistinctCache
from mm_pipelines.identity.keys import COLUMNS, DATE_OF_BIRTH, IDENTIFIERS, KEYS
from mm_pipelines.identity.phone import (
    PhoneConvention,
    PhoneSpellings,
    is_phone_in_scientific_notation,
)
from mm_pipelines.identity.rows import (
    ambiguous_phone_hashes,
    count_phone_spellings,
    former_phone_hashes,
    normalize,
    normalize_and_hash,
    phone_readings,
    phone_regions,
)

__all__ = [
    "COLUMNS",
    "DATE_OF_BIRTH",
    "IDENTIFIERS",
    "KEYS",
    "DistinctCache",
    "PhoneConvention",
    "PhoneSpellings",
    "ambiguous_phone_hashes",
    "count_phone_spellings",
    "former_phone_hashes",
    "is_blank",
    "is_phone_in_scientific_notation",
    "normalize",
    "normalize_and_hash",
    "phone_readings",
    "phone_regions",
]
