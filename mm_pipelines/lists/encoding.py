"""Converts a list's text to UTF-8 from its encoding, in one pass.

A byte order mark or zeros among the first bytes show UTF-16. Any other text begins as ASCII, which
UTF-8 and the single-byte encodings share: the first blocks with other bytes decide.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain

import polars as pl

from mm_pipelines.lists.encoding_guess import CERTAIN, Words, to_utf8
from mm_pipelines.lists.errors import ListUnreadableError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES = 4096
_SOUND = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")
_BLOCKS_AHEAD = 4
"""Blocks that are read for more evidence of a single-byte encoding."""


class Text:
    """Blocks of bytes as blocks of UTF-8.

    Args:
        url: The list, for messages.
        read: Returns the list's blocks; called again only to find the line of a fault.
        declared: ``source.encoding`` of mm.yaml, which replaces the guess. A byte order mark
            still decides, because it is certain.

    Attributes:
        encoding: ``ascii`` until a byte decides, then ``utf-8``, ``windows-1252``,
            ``utf-16-le``…
        confidence: Of a guessed single-byte encoding, 0 to 1; 1 for any other.
    """

    def __init__(
        self, url: str, read: Callable[[], Iterator[bytes]], declared: str | None = None
    ) -> None:
        self._url, self._read, self._declared = url, read, declared
        self.encoding = "ascii"
        self.confidence = 1.0

    @property
    def is_certain(self) -> bool:
        """Whether the encoding is certain enough to hash names that are not ASCII."""
        return self.confidence >= CERTAIN

    def blocks(self) -> Iterator[bytes]:
        """The text, in UTF-8, without a byte order mark.

        Raises:
            ListUnreadableError: The bytes are not text in the encoding that the list began in.
        """
        blocks = self._read()
        first, done = next(blocks, b""), 0
        for mark, encoding in _MARKS:
            if first.startswith(mark):
                self.encoding, first, done = encoding, first[len(mark) :], len(mark)
                break
        else:
            self.encoding = self._declared or _wide(first[:_SAMPLE_BYTES]) or "ascii"
        if self.encoding.startswith(("utf-16", "utf-32")) or self.encoding == self._declared:
            yield from self._decoded(first, blocks)
        else:
            yield from self._narrow(first, blocks, done)

    def _decoded(self, first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        try:
            yield decoder.decode(first).encode()
            for block in blocks:
                yield decoder.decode(block).encode()
            yield decoder.decode(b"", final=True).encode()
        except UnicodeError:
            fault = f"the text is not {self.encoding} to its end; save the list as UTF-8"
            raise ListUnreadableError(self._url, "", fault) from None

    def _narrow(self, first: bytes, blocks: Iterator[bytes], done: int) -> Iterator[bytes]:
        carry = text = b""
        blocks = chain((first,), blocks)
        while (block := next(blocks, None)) is not None:
            whole = carry + block
            carry = _unfinished(whole)
            text = whole[: len(whole) - len(carry)]
            blocks = self._decide(text, blocks)
            yield self._as_utf8(text, done)
            done += len(text)
        if carry:
            self._decide(text[-_SAMPLE_BYTES:] + carry, iter(()))
            yield self._as_utf8(carry, done)

    def _decide(self, block: bytes, following: Iterator[bytes]) -> Iterator[bytes]:
        """Decide the encoding if the block allows it, and return the blocks that follow."""
        if self.encoding != "ascii" or block.isascii():
            return following
        if _looks_like_utf8(block):
            self.encoding = "utf-8"
            return following
        words = Words()
        ahead: list[bytes] = []
        words.add(block)
        while not words.enough and len(ahead) < _BLOCKS_AHEAD:
            further = next(following, None)
            if further is None:
                break
            ahead.append(further)
            words.add(further)
        guess = words.guess()
        self.encoding, self.confidence = guess.encoding, guess.confidence
        return chain(ahead, following)

    def _as_utf8(self, block: bytes, done: int) -> bytes:
        if block.isascii():
            return block
        if self.encoding != "utf-8":
            return to_utf8(block, self.encoding)
        self._check(block, done)
        return block

    def _check(self, block: bytes, done: int) -> None:
        if _is_utf8(block):
            return
        try:
            block.decode()
        except UnicodeDecodeError as error:
            place = f"line {self._line_at(done + error.start):,}"
            fault = "a byte that is not UTF-8, though the list began in UTF-8; save it as UTF-8"
            raise ListUnreadableError(self._url, place, fault) from None

    def _line_at(self, place: int) -> int:
        # Only after a fault: counting lines costs as much as hashing the bytes.
        line, left = 1, place
        for block in self._read():
            line += block.count(b"\n", 0, max(left, 0))
            left -= len(block)
        return line


def _wide(sample: bytes) -> str | None:
    # Text in Latin letters without a byte order mark: every other byte is zero.
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if odd > len(sample) // 4 and odd > even:
        return "utf-16-le"
    if even > len(sample) // 4 and even > odd:
        return "utf-16-be"
    return None


def _is_utf8(block: bytes) -> bool:
    # Polars checks ten times as fast as Python decodes, but does not report the position.
    with suppress(pl.exceptions.PolarsError):
        pl.Series([block]).cast(pl.String)
        return True
    return False


def _looks_like_utf8(block: bytes) -> bool:
    if _is_utf8(block):
        return True
    broken = block.decode(errors="replace").count("\ufffd")
    sound = len(_SOUND.findall(block))
    # One damaged byte in a UTF-8 list is a fault to report, not another encoding.
    return sound > 10 * broken


def _unfinished(block: bytes) -> bytes:
    """The bytes at the end that may begin a UTF-8 character."""
    for length in range(1, min(4, len(block) + 1)):
        byte = block[-length]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return block[-length:] if needed > length else b""
        if byte < 0x80:
            return b""
    return b""
