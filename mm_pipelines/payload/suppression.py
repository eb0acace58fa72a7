"""People who asked to be left alone, known only by keyed digests of their hashed identifiers.

A digest is HMAC-SHA256 under ``MM_SUPPRESSION_KEY`` over the lower-case hex SHA-256 value, so that
a list hashed beforehand meets the same digest, and nobody without the key can test whether an
address is among them (design 7.14).
"""

import hashlib
import hmac
from collections.abc import Iterable

import polars as pl
from polars_hash import CryptographicHashingNameSpace

from mm_pipelines.identity import IDENTIFIERS

_BLOCK_BYTES = 64


class Suppression:
    """The digests of suppressed identifiers, with the key that they are made under.

    Args:
        key: ``MM_SUPPRESSION_KEY`` as bytes.
        digests: Lower-case hex digests of EMAIL and PHONE values, as ``suppression_digest`` makes
            them.
    """

    def __init__(self, key: bytes, digests: pl.Series | Iterable[str]) -> None:
        self._key = key
        self._digests = pl.Series("digest", digests, dtype=pl.String).unique()

    def __repr__(self) -> str:
        return f"<Suppression: {len(self._digests):,} digests>"

    def __bool__(self) -> bool:
        return not self._digests.is_empty()

    def without_suppressed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of which no identifier is suppressed; EMAIL and PHONE hold hashes or ``""``."""
        if not self:
            return rows
        suppressed = pl.lit(value=False)
        for key in IDENTIFIERS:
            if key in rows.columns:
                digest = suppression_digests(pl.col(key), self._key)
                suppressed |= (pl.col(key) != "") & digest.is_in(self._digests.implode())
        return rows.filter(~suppressed)


def suppression_digest(hashed: str, key: bytes) -> str:
    """The digest of one hashed identifier (64 lower-case hex digits), in lower-case hex."""
    return hmac.new(key, hashed.encode(), hashlib.sha256).hexdigest()


def suppression_digests(hashed: pl.Expr, key: bytes) -> pl.Expr:
    """The same for a column: RFC 2104 written out, since SHA-256 is what is there in columns."""
    block = key if len(key) <= _BLOCK_BYTES else hashlib.sha256(key).digest()
    block = block.ljust(_BLOCK_BYTES, b"\0")
    inner = pl.lit(bytes(byte ^ 0x36 for byte in block)) + hashed.cast(pl.Binary)
    inner_digest = CryptographicHashingNameSpace(inner).sha2_256().str.decode("hex")
    outer = pl.lit(bytes(byte ^ 0x5C for byte in block)) + inner_digest
    return CryptographicHashingNameSpace(outer).sha2_256()
