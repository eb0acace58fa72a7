"""Where a day's list is, which files it consists of, and whether they changed."""

import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

_MAGIC = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\[([*?\[])\]")
_MAGIC_IN_URL = re.compile(r"[*\[]")
"""In a URL, a question mark begins the query."""


@dataclass(frozen=True)
class ListStat:
    """The state of a list's files, which shows that the list is new or has changed.

    Attributes:
        size: Bytes, if the file system reports them.
        modified_at: Time of the last change, if the file system reports it.
        etag: The object store's mark of the content, if there is one; of several files, a digest
            over their names and states.
        inode: The file's number on a local disk, which changes when the file is replaced.
    """

    size: int | None
    modified_at: datetime | None
    etag: str | None
    inode: int | None = None

    @property
    def mark(self) -> str:
        """One text that changes when the list does, for a sensor's cursor or run key."""
        when = "" if self.modified_at is None else self.modified_at.isoformat()
        return f"{self.size}|{when}|{self.etag or ''}"


def list_url(template: str, directory: Path, **named: str | date) -> str:
    """The address of one day's list: a file, a folder or a glob.

    Args:
        template: A path of mm.yaml, with names such as ``{audience}``, ``{page}`` and ``{day}``.
        directory: The folder of mm.yaml, which relative paths start from. Its own name is never
            read as a glob.
        named: The values of the template's names; days are ISO in the address.
    """
    path = template.format(**named)
    if "://" in path or Path(path).is_absolute():
        return path
    start = glob.escape(str(directory)) if _MAGIC.search(path) else str(directory)
    return str(Path(start) / path)


def list_files(url: str) -> tuple[str, ...]:
    """The files of a list: the file of exactly that name, a folder's files, or a glob's matches.

    Several files are sorted by name. Names that begin with ``_`` or ``.`` are not part of a list:
    Spark writes ``_SUCCESS`` and ``_temporary`` beside its data. There may be no file.

    Raises:
        OSError: The file system cannot be read.
    """
    return tuple(name for name, _ in _found(url))


def stat_list(url: str) -> ListStat | None:
    """The state of a list, without reading it; None if there is none.

    Raises:
        OSError: The file system cannot be read.
    """
    files = [(name, _stat(info)) for name, info in _found(url)]
    if len(files) < 2:
        return files[0][1] if files else None
    marks = "\n".join(f"{name}|{stat.mark}" for name, stat in files)
    times = [stat.modified_at for _, stat in files if stat.modified_at is not None]
    return ListStat(
        size=sum(stat.size or 0 for _, stat in files),
        modified_at=max(times, default=None),
        etag=hashlib.sha256(marks.encode()).hexdigest(),
    )


def _found(url: str) -> list[tuple[str, dict[str, Any]]]:
    filesystem, path = url_to_fs(url)
    # Object stores cache listings; a sensor must see new files.
    filesystem.invalidate_cache()
    try:
        return sorted(_look_up(filesystem, url, path), key=lambda found: found[0])
    except FileNotFoundError:
        return []
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - each store's client has errors of its own
        raise OSError(f"the list cannot be looked up: {type(error).__name__}") from None


def _look_up(
    filesystem: fsspec.AbstractFileSystem, url: str, path: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    is_url = "://" in url
    try:
        info = filesystem.info(path)
    except FileNotFoundError:
        if not (_MAGIC_IN_URL if is_url else _MAGIC).search(path):
            return
        root, found = _fixed_part(path), filesystem.glob(path, detail=True)
    else:
        if info.get("type") != "directory":
            yield url, info
            return
        root, found = path, filesystem.find(path, detail=True)
    for name, details in found.items():
        below = name.removeprefix(root)
        if details.get("type") == "directory" or re.search(r"(?:^|/)[_.]", below):
            continue
        yield (str(filesystem.unstrip_protocol(name)) if is_url else name), details


def _fixed_part(pattern: str) -> str:
    """The folders of a glob before its first magic one."""
    fixed = []
    for part in pattern.split("/")[:-1]:
        if _MAGIC.search(_ESCAPED.sub("", part)):
            break
        fixed.append(_ESCAPED.sub(r"\1", part))
    return "/".join(fixed)


def _stat(info: dict[str, Any]) -> ListStat:
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("content_md5")
    return ListStat(
        size=info.get("size"),
        modified_at=_modified_at(info),
        etag=str(etag) if etag else None,
        inode=info.get("ino"),
    )


def _modified_at(info: dict[str, object]) -> datetime | None:
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        when = info.get(name)
        if isinstance(when, int | float):
            return datetime.fromtimestamp(when, tz=UTC)
        if isinstance(when, str):
            when = datetime.fromisoformat(when)
        if isinstance(when, datetime):
            return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    return None
