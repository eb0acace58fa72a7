"""Sendable tokens as a file for the sender, CSV or Parquet, published atomically.

Both formats hold the same rows in the same order, by Page and token, so that two files can be
compared line by line. CSV has times in ISO 8601 and audience ids with spaces between; Parquet has
them typed.
"""

import json
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final

import polars as pl
from psycopg2 import sql

from mm_pipelines.storage import Storage
from mm_pipelines.tokens import sender_file
from mm_pipelines.warehouse.database import Database

COLUMNS = (
    "page_id",
    "token",
    "recipient_id",
    "topic_title",
    "timezone",
    "created_at",
    "expires_at",
    "custom_audience_ids",
    "source",
)
"""The columns of the stream, in their order."""

# Times are ISO 8601 in UTC; an array is its ids with spaces between.
_COPY = """
copy (
    select page_id, token, recipient_id, topic_title, timezone,
        to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as created_at,
        to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as expires_at,
        array_to_string(custom_audience_ids, ' ') as custom_audience_ids,
        source
    from mm.sendable_token
    where {page}
    order by page_id, token
) to stdout with (format csv, header true)
"""


def copy_sendable(database: Database, page_id: str | None, file: IO[str]) -> int:
    """Write `mm.sendable_token` as CSV with a header, as of one moment, in constant memory.

    Args:
        database: With the schema `mm`.
        page_id: One Page's tokens; None for every Page's.
        file: Where the text goes.

    Returns:
        The number of tokens.
    """
    # COPY takes no parameters, so the id is quoted into it by the driver.
    page = sql.SQL("page_id = {}").format(sql.Literal(page_id)) if page_id else sql.SQL("true")
    statement = sql.SQL(_COPY).format(page=page)
    with database.transaction() as connection, closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(statement, file)
        return int(cursor.rowcount)


_TIMES: Final = ("created_at", "expires_at")


class FileFormat(StrEnum):
    """The format of a file."""

    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True)
class Manifest:
    """What a sender reads first: the newest file and its properties.

    Attributes:
        path: Of the file, relative to the storage's base.
        sha256: Of its bytes.
        rows: Tokens in it.
        format: Of the file.
        columns: In their order.
        page_id: The Page's id at Meta.
        written_at: The time of the tokens' state, by which eligibility was decided.
        valid_until: When to stop using the file if no newer one has been published.
        previous: The previous file, kept for its readers until the next one is published.
    """

    path: str
    sha256: str
    rows: int
    format: FileFormat
    columns: tuple[str, ...]
    page_id: str
    written_at: str
    valid_until: str
    previous: str | None


def export_sendable(
    database: Database, page_id: str | None, path: Path, file_format: FileFormat
) -> int:
    """Write the sendable tokens to a local file, replacing it in one step; readable by its owner.

    Args:
        database: With the schema `mm`.
        page_id: One Page's tokens; None for every Page's.
        path: Of the file.
        file_format: Of the file.

    Returns:
        The number of tokens written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one filesystem.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as scratch:
        part = Path(scratch) / path.name
        part.touch(mode=0o600)
        rows = _write(database, page_id, part, file_format)
        part.replace(path)
    return rows


def publish_sendable(
    database: Database, storage: Storage, page: str, page_id: str, file_format: FileFormat
) -> Manifest:
    """Publish a Page's sendable tokens as `sendable_tokens/{page}/{sha256}.{format}`.

    The manifest beside it, `latest.json`, is replaced after the file is complete, so that a reader
    always finds a whole file. The previous file is kept for readers that still use it; older files
    are deleted. Publishing is recorded with the changes that the file contains (`sender_file`).
    """
    folder = f"{sender_file.FOLDER}/{page}"
    latest = f"{folder}/latest.json"
    before = _read_json(storage, latest) if storage.exists(latest) else {}
    rows = 0

    def write(scratch: Path) -> None:
        nonlocal rows
        rows = _write(database, page_id, scratch, file_format)

    with database.transaction() as connection:
        snapshot = sender_file.begin(connection, page_id)
    published = storage.publish(folder, f".{file_format.value}", write)
    unchanged = published.path == before.get("path")
    manifest = Manifest(
        path=published.path,
        sha256=published.sha256,
        rows=rows,
        format=file_format,
        columns=COLUMNS,
        page_id=page_id,
        written_at=snapshot.as_of.isoformat(timespec="seconds"),
        valid_until=snapshot.valid_until.isoformat(timespec="seconds"),
        previous=before.get("previous") if unchanged else before.get("path"),
    )
    content = json.dumps(asdict(manifest), indent=2) + "\n"
    storage.replace(latest, lambda scratch: _write_text(scratch, content))
    with database.transaction() as connection:
        sender_file.record(connection, snapshot, path=manifest.path, rows=rows)
    outdated = before.get("previous")
    if outdated and outdated not in (manifest.path, manifest.previous):
        storage.delete(outdated)
    return manifest


def _write(database: Database, page_id: str | None, path: Path, file_format: FileFormat) -> int:
    if file_format is FileFormat.CSV:
        with path.open("w", encoding="utf-8", newline="") as file:
            return copy_sendable(database, page_id, file)
    lines = path.with_name(f"{path.name}.lines")
    rows = _write(database, page_id, lines, FileFormat.CSV)
    pl.scan_csv(lines, schema=dict.fromkeys(COLUMNS, pl.String)).with_columns(
        pl.col(_TIMES).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us"),
        # Nothing splits into one empty text, which is no id.
        pl.col("custom_audience_ids").fill_null("").str.split(" ").list.filter(pl.element() != ""),
    ).sink_parquet(path)
    lines.unlink()
    return rows


def _read_json(storage: Storage, path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(storage.read(path))
    return content


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
