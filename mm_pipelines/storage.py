"""Publishes immutable files under one base URL, and reads them, through fsspec only."""

import hashlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import polars as pl
from fsspec.core import url_to_fs

from mm_pipelines.scratch import ScratchFolder, remove_abandoned

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

    Files of other storages are copied below ``MM_HOME`` to be read, each once, and the copies are
    removed with this object.

    Args:
        base_url: Where files are published: a local path or a URL such as ``s3://bucket/prefix``.
    """

    def __init__(self, base_url: str) -> None:
        self._filesystem, root = url_to_fs(base_url)
        self._root = root.rstrip("/")
        self._copies: ScratchFolder | None = None
        self._copying = threading.Lock()

    def publish(self, folder: str, suffix: str, write: Callable[[Path], object]) -> Published:
        """Write a file under the digest of its content: ``{folder}/{sha256}{suffix}``.

        ``write`` fills a local scratch file. The same path always has the same content, so
        publishing twice only renews the file's time, which protects it from retention.
        """
        with self._scratch() as scratch:
            local = scratch.path / f"file{suffix}"
            write(local)
            with local.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            path = f"{folder}/{sha256}{suffix}"
            if self._is_local and self.exists(path):
                os.utime(f"{self._root}/{path}")
            else:
                self._put(local, path)
        return Published(path=path, sha256=sha256)

    def replace(self, path: str, write: Callable[[Path], object]) -> None:
        """Write the file at ``path`` and replace an existing one atomically."""
        with self._scratch() as scratch:
            local = scratch.path / Path(path).name
            write(local)
            self._put(local, path)

    def scan(self, path: str) -> pl.LazyFrame:
        """The rows of a published Parquet file."""
        return pl.scan_parquet(self.local(path))

    def local(self, path: str) -> Path:
        """A published file on the local disk, in a folder of the same name: itself or its copy.

        Raises:
            FileNotFoundError: A storage elsewhere does not have it.
        """
        if self._is_local:
            return Path(self._root, path)
        with self._copying:
            if self._copies is None:
                self._copies = ScratchFolder()
                weakref.finalize(self, self._copies.close)
            copy = self._copies.path / path
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                part = copy.with_suffix(".part")
                self._filesystem.get_file(f"{self._root}/{path}", str(part))
                part.rename(copy)
            return copy

    def read(self, path: str) -> bytes:
        """The content of a published file."""
        content: bytes = self._filesystem.cat_file(f"{self._root}/{path}")
        return content

    def url(self, path: str) -> str:
        """The address of a published file, for metadata."""
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

    def clear_scratch(self) -> int:
        """Remove scratch folders on the local disk that killed processes left.

        Returns:
            The number of folders removed.
        """
        return remove_abandoned(Path(self._root)) if self._is_local else 0

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

    def _scratch(self) -> ScratchFolder:
        # Within a local storage, because a rename is atomic only within one file system, and a file
        # of gigabytes is then written only once.
        return ScratchFolder(Path(self._root) if self._is_local else None)


def _sync(folder: Path) -> None:
    """Flush a rename to disk, so that a power failure cannot undo what the ledger refers to."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
