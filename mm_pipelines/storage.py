"""Publishes immutable Parquet files under one base URL, each completely or not at all."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import BinaryIO

import fsspec
from fsspec.core import url_to_fs

_SCRATCH = ".scratch-"
_BLOCK_BYTES = 1 << 20
_POLL_SECONDS = 0.005
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@|\?.*$")


def without_credentials(url: str) -> str:
    """The address without a user name, password or signature, for messages.

    A local path is returned unchanged: the same characters have no meaning there.
    """
    return _CREDENTIALS.sub("", url) if "://" in url else url


@dataclass(frozen=True)
class Published:
    """A file's path below the base of the storage, and the digest of its bytes."""

    path: str
    sha256: str


class Storage:
    """A folder on the local disk, or any fsspec URL (``MM_STORAGE_URL``).

    Args:
        base_url: Where files are published: a local path or a URL such as ``s3://bucket/prefix``.
    """

    def __init__(self, base_url: str) -> None:
        self._filesystem, root = url_to_fs(base_url)
        self._root = root.rstrip("/")

    def publish(self, folder: str, suffix: str, write: Callable[[Path], None]) -> Published:
        """Write a file under the digest of its content: ``{folder}/{sha256}{suffix}``.

        ``write`` fills a local scratch file. The same path always has the same content, so
        publishing twice only renews the file's time, which protects it from retention.
        """
        with self._scratch() as scratch:
            local = Path(scratch) / f"file{suffix}"
            sha256 = _digest_while_written(local, write)
            path = f"{folder}/{sha256}{suffix}"
            if self._is_local and self.exists(path):
                os.utime(f"{self._root}/{path}")
            else:
                self._put(local, path)
        return Published(path=path, sha256=sha256)

    def replace(self, path: str, write: Callable[[Path], None]) -> None:
        """Write the file at ``path`` and replace an existing one atomically."""
        with self._scratch() as scratch:
            local = Path(scratch) / Path(path).name
            write(local)
            self._put(local, path)

    def url(self, path: str) -> str:
        """The address of a published file, for ``pl.scan_parquet`` and for metadata."""
        full = f"{self._root}/{path}"
        return full if self._is_local else str(self._filesystem.unstrip_protocol(full))

    def exists(self, path: str) -> bool:
        """Whether a file is published at ``path``."""
        return bool(self._filesystem.exists(f"{self._root}/{path}"))

    def files(self, folder: str) -> Iterator[tuple[str, datetime]]:
        """The files below a folder, each with the time of its last change."""
        for full in self._filesystem.find(f"{self._root}/{folder}"):
            path = full.removeprefix(f"{self._root}/")
            yield path, self.modified_at(path)

    def modified_at(self, path: str) -> datetime:
        """When a file was last published (UTC)."""
        modified_at: datetime = self._filesystem.modified(f"{self._root}/{path}")
        return modified_at.astimezone(UTC)

    def delete(self, path: str) -> None:
        """Remove a published file; a missing file is not an error."""
        if self.exists(path):
            self._filesystem.rm(f"{self._root}/{path}")

    def clear_scratch(self, before: datetime) -> int:
        """Remove scratch folders on the local disk that killed processes left before a time.

        Returns:
            The number of folders removed.
        """
        if not self._is_local:
            return 0
        left = [
            folder
            for folder in Path(self._root).glob(f"{_SCRATCH}*")
            if datetime.fromtimestamp(folder.stat().st_mtime, UTC) < before
        ]
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        return len(left)

    @property
    def _is_local(self) -> bool:
        return isinstance(self._filesystem, fsspec.get_filesystem_class("file"))

    def _put(self, local: Path, path: str) -> None:
        target = f"{self._root}/{path}"
        if not self._is_local:
            # Object stores show an object only when its upload is complete.
            self._filesystem.put_file(str(local), target)
            return
        final = Path(target)
        final.parent.mkdir(parents=True, exist_ok=True)
        with local.open("rb") as written:
            os.fsync(written.fileno())
        local.replace(final)
        _sync(final.parent)

    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        if not self._is_local:
            return tempfile.TemporaryDirectory(prefix="mm-")
        # Within the storage, because a rename is atomic only within one file system, and a file of
        # gigabytes is then written only once.
        Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self._root)


def _sync(folder: Path) -> None:
    """Flush a rename to disk, so that a power failure cannot undo what the ledger refers to."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest_while_written(path: Path, write: Callable[[Path], None]) -> str:
    """SHA-256 of the file that ``write`` makes. A second thread reads the file as it grows.

    ``write`` appends only. If it replaces the file instead, the new file is read again.
    """
    path.touch()
    written = Event()
    with path.open("rb") as growing, ThreadPoolExecutor(1, "digest") as thread:
        digest = thread.submit(_follow, growing, written)
        try:
            write(path)
        finally:
            written.set()
        if os.path.samestat(os.fstat(growing.fileno()), path.stat()):
            return digest.result()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _follow(growing: BinaryIO, written: Event) -> str:
    digest = hashlib.sha256()
    finished = False
    while not finished:
        # Checked before reading, because a write may come after the last read.
        finished = written.wait(_POLL_SECONDS)
        while block := growing.read(_BLOCK_BYTES):
            digest.update(block)
        # Flushed as it grows, so that the final sync is short.
        os.fdatasync(growing.fileno())
    return digest.hexdigest()
