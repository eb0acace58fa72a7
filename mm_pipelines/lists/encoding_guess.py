"""Guesses the single-byte encoding of a list from its words that are not ASCII.

The guess is chardetng's, the detector of Firefox. It is certain of a single word, which is often
too little, so the confidence is found by guessing again on parts of the words.
"""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CERTAIN = 0.85
"""From this confidence on, names are read in the guessed encoding."""

FALLBACK = "windows-1252"
_LATIN = (FALLBACK, "windows-1250", "windows-1254", "iso-8859-2")
RECOGNIZED = (*_LATIN, "windows-1251", "windows-1253")
_MOST_WORDS = 600
_PARTS = 12
_PARTS_OF_FEW_WORDS = 4
"""So few that the confidence stays below ``CERTAIN``, even if all of them agree."""
_FEW_WORDS = 15
_RUN_OF_LETTERS = re.compile(rb"[A-Za-z\x80-\xff' -]+")


@dataclass(frozen=True)
class Guess:
    """A guessed encoding.

    Attributes:
        encoding: Its name in lower case. It may be one that is not in ``RECOGNIZED``.
        confidence: 0 to 1; 0 for an encoding that is not in ``RECOGNIZED``.
    """

    encoding: str
    confidence: float


class Words:
    """The first distinct words of a text that are not ASCII."""

    def __init__(self) -> None:
        self._words: dict[bytes, None] = {}

    @property
    def enough(self) -> bool:
        """Whether more words would not make the guess better."""
        return len(self._words) >= _MOST_WORDS

    def add(self, block: bytes) -> None:
        """Add the words of a block."""
        runs = _RUN_OF_LETTERS.findall(block)
        self._words.update((run.strip(), None) for run in runs if not run.isascii())

    def guess(self) -> Guess:
        """The encoding of the words.

        The confidence is the rule of succession's: of n parts, (agreeing + 1) / (n + 2), where a
        part agrees if its own guess gives the same text. It is 1 if every rival encoding gives the
        same text.
        """
        words = list(self._words)[:_MOST_WORDS]
        encoding = _detect(words)
        if encoding not in RECOGNIZED:
            return Guess(encoding, 0.0)
        if _is_undisputed(words, encoding):
            return Guess(encoding, 1.0)
        count = min(len(words), _PARTS if len(words) >= _FEW_WORDS else _PARTS_OF_FEW_WORDS)
        parts = _thirds(words, count)
        agreeing = sum(_have_same_text(part, encoding, _detect(part)) for part in parts)
        return Guess(encoding, round((agreeing + 1) / (count + 2), 2))


def to_utf8(block: bytes, encoding: str) -> bytes:
    """Convert from a single-byte encoding, as browsers do: undefined bytes stay as controls.

    Text of an encoding that is not in ``RECOGNIZED`` is read as Windows-1252.
    """
    table = _table(encoding if encoding in RECOGNIZED else FALLBACK)
    return codecs.charmap_decode(block, "strict", table)[0].encode()


def _thirds(words: list[bytes], count: int) -> list[list[bytes]]:
    """Overlapping parts, each a third of the words, that begin at equal distances."""
    size, circle = -(-len(words) // 3), words + words
    starts = [number * len(words) // count for number in range(count)]
    return [circle[start : start + size] for start in starts]


def _detect(words: Sequence[bytes]) -> str:
    # Most lists are UTF-8 and need no detector.
    from chardetng_py import EncodingDetector

    detector = EncodingDetector()
    detector.feed(b"\n".join(words), last=True)
    guessed: str = detector.guess(tld=None, allow_utf8=False)
    return guessed.lower()


def _is_undisputed(words: Sequence[bytes], encoding: str) -> bool:
    # A word with Latin letters is neither Cyrillic nor Greek.
    latin = all(any(sign.isalpha() and sign.isascii() for sign in _text(word)) for word in words)
    rivals = _LATIN if latin else RECOGNIZED
    return all(_have_same_text(words, encoding, rival) for rival in rivals)


def _have_same_text(words: Sequence[bytes], encoding: str, other: str) -> bool:
    text = b"\n".join(words)
    return other in RECOGNIZED and to_utf8(text, encoding) == to_utf8(text, other)


def _text(word: bytes) -> str:
    return word.decode("latin-1")


@cache
def _table(encoding: str) -> str:
    return "".join(
        bytes([byte]).decode(encoding, errors="ignore") or chr(byte) for byte in range(256)
    )
