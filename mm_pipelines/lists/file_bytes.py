"""Reads a file of a list once, in blocks, with its fingerprint, and decompresses gzip."""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from fsspec.core import url_to_fs

from mm_pipelines.lists.errors import ListMissingError, ListUnreadableError

BLOCK_BYTES = 6 << 20
_FIRST_BLOCK_BYTES = 1 << 20


class Bytes:
    """The bytes of one file.

    ``fingerprint`` is the SHA-256 of the file as stored (compressed, if it is). It is complete when
    all blocks are read.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the bytes read so far, in hex."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """The content in blocks.

        Raises:
            ListMissingError: The file does not exist.
            ListUnreadableError: The file cannot be read, or its gzip data are damaged.
        """
        raw = self.raw()
        return self._unpacked(raw) if self._url.lower().endswith(".gz") else raw

    def raw(self) -> Iterator[bytes]:
        """The file's blocks as stored."""
        # The first blocks are small, so that the worker threads start early.
        size = _FIRST_BLOCK_BYTES
        with open_binary(self._url) as file:
            while block := self._read(file, size):
                self._digest.update(block)
                self.size += len(block)
                yield block
                size = min(2 * size, BLOCK_BYTES)

    def _read(self, file: BinaryIO, size: int) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            fault = f"cannot be read: {error.strerror or type(error).__name__}"
            raise ListUnreadableError(self._url, "", fault) from None

    def _unpacked(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        unpacking, finished = zlib.decompressobj(wbits=31), False
        for block in blocks:
            rest = block
            while rest:
                if finished:
                    # A gzip file may have several members and zeros as padding.
                    if not rest.strip(b"\0"):
                        break
                    unpacking, finished = zlib.decompressobj(wbits=31), False
                try:
                    # Bounded, because a block can decompress to a thousand times its size.
                    content = unpacking.decompress(rest, BLOCK_BYTES)
                except zlib.error:
                    fault = "the gzip data are damaged; compress the list again"
                    raise ListUnreadableError(self._url, "", fault) from None
                if content:
                    yield content
                finished = unpacking.eof
                rest = unpacking.unused_data if finished else unpacking.unconsumed_tail
        if self.size and not finished:
            fault = "the gzip data end too early; the file was not copied to its end"
            raise ListUnreadableError(self._url, "", fault)


@contextmanager
def open_binary(url: str) -> Iterator[BinaryIO]:
    """Open a file of a list for reading.

    Raises:
        ListMissingError: The file does not exist.
        ListUnreadableError: It cannot be opened.
    """
    filesystem, path = url_to_fs(url)
    try:
        file = filesystem.open(path, "rb")
    except FileNotFoundError:
        raise ListMissingError(url, "", "there is no such file") from None
    except OSError as error:
        fault = f"cannot be opened: {error.strerror or type(error).__name__}"
        raise ListUnreadableError(url, "", fault) from None
    with file:
        yield cast("BinaryIO", file)


def fingerprint(url: str) -> str:
    """SHA-256 of the file's bytes in hex."""
    content = Bytes(url)
    for _ in content.raw():
        pass
    return content.fingerprint
