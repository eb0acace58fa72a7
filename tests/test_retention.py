"""What retention removes, and what it leaves."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import text

from mm_pipelines.jobs import retention
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.retention import Removed, remove_expired
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=100)
BEFORE = NOW - timedelta(days=90)

EVENTS = """
insert into mm.webhook_event (dedupe_key, field, payload, received_at, processed_at)
values ('old', 'messages', '{}', :long_ago, :long_ago), ('new', 'messages', '{}', :now, :now),
       ('pending', 'messages', '{}', :long_ago, null),
       ('unacknowledged', 'message_reads', '{}', :long_ago, null)
"""

DELTAS = """
with delta as (
    insert into mm.upload_delta (audience, day, custom_audience_id, operation, origin,
                                 source_sha256, path, row_count, keys, completed_at)
    values ('acme', '2026-08-01', '1', 'add', 'payload', 'x', 'deltas/1/compacted.parquet', 1,
            '{EMAIL}', now()),
           ('acme', '2026-08-02', '1', 'add', 'payload', 'y', 'deltas/1/unfinished.parquet', 1,
            '{EMAIL}', null)
    returning id
)
insert into mm.membership (custom_audience_id, path, people, through_delta_id)
select '1', 'members/1/old.parquet', 1, min(id) from delta
"""


SCOPE: Any = {"acknowledged_fields": ["messages"], "page_ids": ["1"]}


def publish(storage: Storage, path: str, changed_at: datetime) -> None:
    storage.replace(path, lambda file: file.touch())
    os.utime(storage.url(path), (changed_at.timestamp(),) * 2)


def test_old_files_and_events_go_and_the_rest_stays(database: Database, storage: Storage) -> None:
    publish(storage, "hashed_payload/acme/old.parquet", LONG_AGO)
    publish(storage, "hashed_payload/acme/new.parquet", NOW)
    publish(storage, "sendable_tokens/acme/old.parquet", LONG_AGO)
    with database.transaction() as connection:
        connection.execute(text(EVENTS), {"long_ago": LONG_AGO, "now": NOW})

    assert remove_expired(database, storage, before=BEFORE, **SCOPE) == Removed(files=1, events=2)
    assert remove_expired(database, storage, before=BEFORE, **SCOPE) == Removed(files=0, events=0)

    assert not storage.exists("hashed_payload/acme/old.parquet")
    assert storage.exists("hashed_payload/acme/new.parquet")
    assert storage.exists("sendable_tokens/acme/old.parquet")
    with database.transaction() as connection:
        left = connection.scalars(text("select dedupe_key from mm.webhook_event order by 1")).all()
    assert left == ["new", "pending"]


def test_a_file_that_a_delivery_or_a_membership_needs_stays(
    database: Database, storage: Storage
) -> None:
    for path in (
        "deltas/1/unfinished.parquet",
        "deltas/1/compacted.parquet",
        "members/1/old.parquet",
    ):
        publish(storage, path, LONG_AGO)
    with database.transaction() as connection:
        connection.execute(text(DELTAS))
    assert remove_expired(database, storage, before=BEFORE, **SCOPE).files == 1
    assert storage.exists("deltas/1/unfinished.parquet")
    assert storage.exists("members/1/old.parquet")


def test_a_payload_that_was_never_delivered_stays(database: Database, storage: Storage) -> None:
    publish(storage, "hashed_payload/acme/waiting.parquet", LONG_AGO)
    with database.transaction() as connection:
        connection.execute(
            text(
                "insert into mm.hashed_payload (audience, day, sha256, path, rows) values "
                "('acme', '2026-08-01', 'x', 'hashed_payload/acme/waiting.parquet', 1)"
            )
        )
    assert remove_expired(database, storage, before=BEFORE, **SCOPE).files == 0


def test_publishing_again_renews_a_file(storage: Storage) -> None:
    published = storage.publish("deltas/1", ".parquet", lambda file: file.touch())
    os.utime(storage.url(published.path), (LONG_AGO.timestamp(),) * 2)
    assert storage.publish("deltas/1", ".parquet", lambda file: file.touch()) == published
    assert storage.modified_at(published.path) > BEFORE


def test_what_a_killed_process_left_in_the_storage_goes_after_a_day(
    database: Database, storage: Storage
) -> None:
    root = Path(storage.url(""))
    for name, changed_at in ((".scratch-dead", LONG_AGO), (".scratch-alive", datetime.now(UTC))):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (changed_at.timestamp(),) * 2)
    remove_expired(database, storage, before=BEFORE, **SCOPE)
    assert [folder.name for folder in root.iterdir()] == [".scratch-alive"]


def test_the_job_runs_as_the_schedule_starts_it(database_url: str, tmp_path: Path) -> None:
    result = retention.execute_in_process(
        resources={
            "database": DatabaseResource(url=database_url),
            "storage": StorageResource(base_url=str(tmp_path)),
        },
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert result.success
