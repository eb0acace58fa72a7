"""Keyed digests of hashed identifiers.

A digest is HMAC-SHA256 under ``MM_SUPPRESSION_KEY`` over the lower-case hex SHA-256 value. A list
that was hashed before it arrived therefore has the same digests, and without the key it cannot be
tested whether an address is on the list.
"""

import hashlib
import hmac

import polars as pl
from polars_hash import CryptographicHashingNameSpace

_BLOCK_BYTES = 64


def key_fingerprint(key: bytes) -> str:
    """Return what identifies a key without revealing it, as lower-case hex."""
    return hashlib.sha256(b"mm_pipelines suppression key\0" + key).hexdigest()


def suppression_digest(hashed: str, key: bytes) -> str:
    """Return the digest of one hashed identifier (64 lower-case hex digits) as lower-case hex."""
    return hmac.new(key, hashed.encode(), hashlib.sha256).hexdigest()


def suppression_digests(hashed: pl.Expr, key: bytes) -> pl.Expr:
    """Return the digests of a column of hashed identifiers as lower-case hex.

    This writes RFC 2104 out, because Polars has SHA-256 for columns but no HMAC.
    """
    block = key if len(key) <= _BLOCK_BYTES else hashlib.sha256(key).digest()
    block = block.ljust(_BLOCK_BYTES, b"\0")
    inner = pl.lit(bytes(byte ^ 0x36 for byte in block)) + hashed.cast(pl.Binary)
    inner_digest = CryptographicHashingNameSpace(inner).sha2_256().str.decode("hex")
    outer = pl.lit(bytes(byte ^ 0x5C for byte in block)) + inner_digest
    return CryptographicHashingNameSpace(outer).sha2_256()
