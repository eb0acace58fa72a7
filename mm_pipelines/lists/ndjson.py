"""NDJSON: one JSON object per line."""

from collections.abc import Iterator, Sequence
from itertools import chain

import orjson
import polars as pl

from mm_pipelines.lists.consent import is_consent_header
from mm_pipelines.lists.errors import ListHeaderError, ListRowError, ListUnreadableError, row
from mm_pipelines.lists.headers import recognized_key

_ROWS_A_CHUNK = 50_000


class NdJson:
    """The rows of one NDJSON list.

    Attributes:
        header: The fields of the objects in the first chunk.
    """

    def __init__(self, url: str, blocks: Iterator[bytes]) -> None:
        self._url = url
        chunks = _in_chunks(self._objects(blocks))
        first = next(chunks, [])
        if not first:
            raise ListUnreadableError(url, "", "the list is empty")
        self._chunks = chain([first], chunks)
        self.header = list(dict.fromkeys(name for line in first for name in line))

    def chunks(self, places: Sequence[int]) -> Iterator[pl.DataFrame]:
        """The fields at ``places`` of the header, in frames of text without nulls.

        Raises:
            ListRowError: A line is not a JSON object.
            ListHeaderError: A field of a schema key or of consent first appears in a later chunk.
        """
        names = [self.header[place] for place in places]
        known = set(self.header)
        done = 0
        for lines in self._chunks:
            self._check_late(lines, known, done)
            done += len(lines)
            yield pl.DataFrame(
                {
                    str(place): pl.Series(
                        [_text(line.get(name)) for line in lines], dtype=pl.String
                    )
                    for place, name in zip(places, names, strict=True)
                }
            )

    def _check_late(self, lines: list[dict[str, object]], known: set[str], done: int) -> None:
        for number, line in enumerate(lines, start=done + 1):
            if line.keys() <= known:
                continue
            for name in line.keys() - known:
                if recognized_key(name) or is_consent_header(name):
                    fault = (
                        f"the field {name!r} appears here for the first time; "
                        "write it into the first line too, if only as null"
                    )
                    raise ListHeaderError(self._url, row(number), fault)
                known.add(name)

    def _objects(self, blocks: Iterator[bytes]) -> Iterator[dict[str, object]]:
        number = 0
        for line in _lines(blocks):
            if not line.strip():
                continue
            number += 1
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise ListRowError(self._url, row(number), "the line is not JSON") from None
            if not isinstance(value, dict):
                fault = "the line is JSON, but not an object"
                raise ListRowError(self._url, row(number), fault)
            yield value


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    carry = b""
    for block in blocks:
        *whole, carry = (carry + block).split(b"\n")
        yield from whole
    yield carry


def _in_chunks(objects: Iterator[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    chunk: list[dict[str, object]] = []
    for value in objects:
        chunk.append(value)
        if len(chunk) == _ROWS_A_CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case float() if value.is_integer():
            return str(int(value))
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
    return ""
