"""Where a day's list lies, and what can be known of it without reading it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from fsspec.core import url_to_fs


@dataclass(frozen=True)
class ListStat:
    """What a file system tells of a list: enough to see that it is new or has changed.

    Attributes:
        size: Bytes, if the file system tells.
        modified_at: Time of the last change, if the file system tells.
        etag: The object store's own mark of the content, if there is one.
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
    """The address of one day's list.

    Args:
        template: A path of mm.yaml, with names such as ``{audience}``, ``{page}`` and ``{day}``.
        directory: The folder of mm.yaml, which relative paths start from.
        named: What the template's names stand for; days are ISO in the address.
    """
    path = template.format(**named)
    return path if "://" in path else str(directory / path)


def stat_list(url: str) -> ListStat | None:
    """What is known of a list without reading it; None if there is none.

    Raises:
        OSError: The place cannot be looked at.
    """
    filesystem, path = url_to_fs(url)
    # Object stores keep listings; a sensor must see what was put there since.
    filesystem.invalidate_cache()
    try:
        info = filesystem.info(path)
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - each store's client has errors of its own
        raise OSError(f"the list cannot be looked at: {type(error).__name__}") from None
    if info.get("type") == "directory":
        return None
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
