"""What retention removes, and what it keeps."""

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.delivery import custom_audience, membership
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.jobs import retention
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.retention import RetentionRules, remove_expired
from mm_pipelines.scratch import ScratchFolder
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

NOW = datetime.now(UTC)
A_WEEK_AGO = NOW - timedelta(days=7)
LONG_AGO = NOW - timedelta(days=100)
RULES = RetentionRules(
    rows_before=NOW - timedelta(days=90),
    files_before=NOW - timedelta(days=2),
    acknowledged_fields=["messages"],
    page_ids=["1"],
)

# Two rows of each table, of which the first is old enough.
PEOPLE = """
insert into mm.webhook_event (dedupe_key, field, payload, received_at, processed_at)
values ('old', 'messages', '{}', :long_ago, :long_ago), ('new', 'messages', '{}', :now, :now),
       ('pending', 'messages', '{}', :long_ago, null),
       ('of no asset', 'message_reads', '{}', :long_ago, null);
insert into mm.conversation (page_id, psid, last_message_at)
values ('1', 'old', :long_ago), ('1', 'new', :now);
insert into mm.optin_request (page_id, psid, title, asked_at)
values ('1', 'old', 'News', :long_ago), ('1', 'new', 'News', :now);
insert into mm.rejected_row (audience, day, stage, row_number, reasons, recorded_at)
values ('acme', '2026-08-01', 'hashed_payload', 1, '{}', :long_ago),
       ('acme', '2026-08-01', 'hashed_payload', 2, '{}', :now);
insert into mm.subscription_token
    (page_id, token, source, first_seen_at, last_seen_at, gone_at)
values ('1', 'old', 'opt_in', :long_ago, :long_ago, :long_ago),
       ('1', 'live', 'opt_in', :long_ago, :now, null);
insert into mm.token_change (page_id, token, event, happened_at)
values ('1', 'old', 'vanished', :long_ago), ('1', 'live', 'stopped', :now);
insert into mm.token_pull (page_id, method, complete, started_at, finished_at)
values ('1', 'listing', true, :long_ago, :long_ago), ('1', 'listing', true, :now, :now),
       ('2', 'listing', true, :long_ago, :long_ago)
"""

DELTA = """
with delta as (
    insert into mm.upload_delta (audience, day, custom_audience_id, operation, origin,
                                 source_sha256, path, row_count, keys, created_at, completed_at)
    values ('acme', '2026-08-01', '1', :operation, 'payload', :path, :path, :rows, '{EMAIL}',
            :created_at, :completed_at)
    returning id
)
insert into mm.upload_batch (audience, day, session_id, batch_seq, row_count, content_sha256,
                             status, delta_id, first_row, acknowledged_at)
select 'acme', '2026-08-01', id, 1, :rows, :path, 'acknowledged', id, 0, :created_at from delta
where :completed_at is not null
"""


@pytest.fixture
def audience(database: Database) -> CustomAudience:
    """A Custom Audience that a key of mm.yaml is bound to."""
    known = CustomAudience("acme", "1", "1", "1", "Acme")
    with database.transaction() as connection:
        custom_audience.record(connection, known)
    return known


def execute(database: Database, statements: str, **values: Any) -> None:
    with database.transaction() as connection:
        for statement in statements.split(";"):
            names = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(text(statement), names)


def publish(
    storage: Storage, path: str, changed_at: datetime = A_WEEK_AGO, people: Sequence[str] = ()
) -> None:
    frame = pl.DataFrame(
        {"EMAIL": people, "PHONE": [""] * len(people)}, schema_overrides={"EMAIL": pl.String}
    )
    storage.replace(path, frame.write_parquet)
    os.utime(storage.url(path), (changed_at.timestamp(),) * 2)


def add_delta(database: Database, path: str, *, rows: int = 1, completed: bool = True) -> None:
    execute(
        database,
        DELTA,
        path=path,
        rows=rows,
        operation="add",
        created_at=A_WEEK_AGO,
        completed_at=A_WEEK_AGO if completed else None,
    )


def test_old_rows_go_and_the_rest_stays(database: Database, storage: Storage) -> None:
    execute(database, PEOPLE, long_ago=LONG_AGO, now=NOW)
    removed = remove_expired(database, storage, RULES)
    assert removed.rows == {
        "webhook_event": 2,
        "conversation": 1,
        "optin_request": 1,
        "rejected_row": 1,
        "subscription_token": 1,
        "token_change": 1,
        "token_pull": 1,
    }
    assert not any(remove_expired(database, storage, RULES).rows.values())
    with database.transaction() as connection:
        left = connection.scalars(text("select dedupe_key from mm.webhook_event order by 1")).all()
        pulled = connection.scalars(text("select page_id from mm.token_pull order by 1")).all()
    assert left == ["new", "pending"]
    assert pulled == ["1", "2"]


def test_delivered_files_go_after_payload_days(database: Database, storage: Storage) -> None:
    publish(storage, "hashed_payload/acme/old.parquet")
    publish(storage, "hashed_payload/acme/new.parquet", NOW)
    assert remove_expired(database, storage, RULES).files == 1
    assert not storage.exists("hashed_payload/acme/old.parquet")
    assert storage.exists("hashed_payload/acme/new.parquet")


def test_replaced_senders_files_go_after_payload_days(database: Database, storage: Storage) -> None:
    for name in ("replaced.parquet", "newest.parquet", "latest.json"):
        publish(storage, f"sendable_tokens/acme/{name}")
    execute(
        database,
        "insert into mm.sender_file (page_id, path, row_count, as_of, valid_until)"
        " values ('1', 'sendable_tokens/acme/newest.parquet', 0, :now, :now)",
        now=NOW,
    )
    assert remove_expired(database, storage, RULES).files == 1
    assert not storage.exists("sendable_tokens/acme/replaced.parquet")


def test_members_leave_their_deltas_before_these_are_removed(
    database: Database, storage: Storage, audience: CustomAudience
) -> None:
    for number in range(2):
        path = f"deltas/1/{number}.parquet"
        publish(storage, path, people=[f"person {number}"])
        add_delta(database, path)
    assert remove_expired(database, storage, RULES).files == 2
    with database.transaction() as connection:
        members = membership.members_of(connection, audience.custom_audience_id)
    assert members.since == ()
    assert set(members.frame(storage).collect()["EMAIL"]) == {"person 0", "person 1"}
    assert remove_expired(database, storage, RULES).files == 0


def test_an_audience_at_work_keeps_its_deltas(
    database: Database, storage: Storage, audience: CustomAudience
) -> None:
    publish(storage, "deltas/1/0.parquet", people=["person"])
    add_delta(database, "deltas/1/0.parquet")
    with database.lock(f"audience:{audience.audience}"):
        assert remove_expired(database, storage, RULES).files == 0
    assert remove_expired(database, storage, RULES).files == 1


def test_an_unfinished_delta_stays(
    database: Database, storage: Storage, audience: CustomAudience
) -> None:
    publish(storage, "deltas/1/unfinished.parquet", people=["person"])
    add_delta(database, "deltas/1/unfinished.parquet", completed=False)
    assert remove_expired(database, storage, RULES).files == 0


def test_the_files_of_a_released_custom_audience_go_after_retention_days(
    database: Database, storage: Storage
) -> None:
    publish(storage, "deltas/1/0.parquet", people=["person"])
    publish(storage, "members/1/file.parquet", people=["person"])
    add_delta(database, "deltas/1/0.parquet", completed=False)
    execute(
        database,
        "insert into mm.membership (custom_audience_id, path, people, through_delta_id, written_at)"
        " select '1', 'members/1/file.parquet', 1, id, :week from mm.upload_delta",
        week=A_WEEK_AGO,
    )
    assert remove_expired(database, storage, RULES).files == 0
    assert remove_expired(database, storage, replace(RULES, rows_before=NOW)).files == 2


def test_an_undelivered_payload_stays_for_retention_days(
    database: Database, storage: Storage
) -> None:
    path = "hashed_payload/acme/waiting.parquet"
    publish(storage, path)
    execute(
        database,
        "insert into mm.hashed_payload (audience, day, sha256, path, rows, created_at)"
        " values ('acme', '2026-08-01', 'x', :path, 1, :week)",
        path=path,
        week=A_WEEK_AGO,
    )
    assert remove_expired(database, storage, RULES).files == 0
    assert remove_expired(database, storage, replace(RULES, files_not_kept=[path])).files == 1


def test_publishing_again_renews_a_file(storage: Storage) -> None:
    published = storage.publish("deltas/1", ".parquet", lambda file: file.touch())
    os.utime(storage.url(published.path), (LONG_AGO.timestamp(),) * 2)
    assert storage.publish("deltas/1", ".parquet", lambda file: file.touch()) == published
    assert storage.modified_at(published.path) > RULES.files_before


def test_what_a_killed_process_left_in_the_storage_is_removed(
    database: Database, storage: Storage
) -> None:
    root = Path(storage.url(""))
    with ScratchFolder(root) as alive:
        (root / ".scratch-dead").mkdir()
        remove_expired(database, storage, RULES)
        assert list(root.iterdir()) == [alive.path]


def test_the_job_runs_as_the_schedule_starts_it(database_url: str, tmp_path: Path) -> None:
    result = retention.execute_in_process(
        resources={
            "mm_database": DatabaseResource(url=database_url),
            "mm_storage": StorageResource(base_url=str(tmp_path)),
            "mm_suppression": SuppressionResource(key="suppression key of the tests"),
        },
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert result.success


def test_every_table_states_how_long_its_rows_are_kept(database: Database) -> None:
    with database.transaction() as connection:
        tables = connection.scalars(
            text(
                "select table_name from information_schema.tables "
                "where table_schema = 'mm' and table_type = 'BASE TABLE'"
            )
        )
        expected = {f"mm.{name}" for name in tables} - {"mm.alembic_version"}
    page = Path(__file__).parents[1] / "docs" / "operations.md"
    section = page.read_text(encoding="utf-8").split("\n## Retention\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `mm.")]
    stated = {row[1].strip().strip("`"): row[3].strip() for row in rows}
    assert stated.keys() == expected, "state each table in docs/operations.md#retention"
    assert all(stated.values())
