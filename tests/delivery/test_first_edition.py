"""The state of the first edition (migrations up to 0005) is taken over, an open delta included."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from mm_pipelines.graph_api.custom_audiences import find_or_create_custom_audience
from mm_pipelines.graph_api.users import UploadSession, add_users, users_payload
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import MIGRATIONS, upgrade
from tests.conftest import own_database
from tests.delivery.sandbox_delivery import (
    DAY,
    SPEC,
    Sandbox,
    SandboxDelivery,
    keys,
    payload_frame,
    people,
)
from tests.delivery.test_removals import leaving, remove

CROWD = people(3000)
SESSION = 4_611_686_018_427_387_904

STATE = """
insert into mm.custom_audience (audience, custom_audience_id, page_id, ad_account_id, name)
values (:audience, :custom_audience_id, :page_id, :ad_account_id, :name);
insert into mm.hashed_payload (audience, day, sha256, path, rows)
values (:audience, :day, :sha256, :path, 3000);
insert into mm.upload_delta
    (audience, day, custom_audience_id, operation, origin, source_sha256, path, row_count, keys)
values
    (:audience, :day, :custom_audience_id, 'add', 'payload', :sha256, :path, 3000,
     array['EMAIL', 'PHONE']);
insert into mm.upload_session (session_id, delta_id, estimated_num_total, opened_at)
select :session_id, id, 3000, :opened_at from mm.upload_delta;
insert into mm.upload_batch
    (audience, day, session_id, batch_seq, row_count, content_sha256, status, num_received,
     num_invalid_entries, acknowledged_at, delta_id, first_row)
select :audience, :day, :session_id, 1, 1000, :first_content, 'acknowledged', 1000, 0, now(), id, 0
from mm.upload_delta;
insert into mm.upload_batch
    (audience, day, session_id, batch_seq, row_count, content_sha256, status, delta_id, first_row)
select :audience, :day, :session_id, 2, 1000, :second_content, 'sent', id, 1000
from mm.upload_delta
"""


@pytest.fixture
def first_edition(server_url: str, storage: Storage, sandbox: Sandbox) -> Iterator[SandboxDelivery]:
    """A database at the last migration of the first edition."""
    with own_database(server_url, template=None) as url:
        database = Database(url)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with database.transaction() as connection:
            connection.execute(text("create schema mm"))
            config.attributes["connection"] = connection
            command.upgrade(config, "0005")
        yield SandboxDelivery(database, storage, sandbox)
        database.dispose()


def leave_open_delta(delivery: SandboxDelivery, opened_at: datetime) -> None:
    """Write the state of a killed upload: one batch acknowledged, one without an answer."""
    rows = payload_frame(CROWD)
    published = delivery.storage.publish("payloads", ".parquet", rows.write_parquet)
    with delivery.client() as client:
        custom_audience_id, _ = find_or_create_custom_audience(
            client,
            SPEC.ad_account_id,
            name=SPEC.name,
            description=SPEC.description,
            page_id=SPEC.page_id,
        )
        add_users(client, custom_audience_id, rows[:1000], UploadSession(SESSION, 1, False, 3000))
    values = {
        **vars(SPEC),
        "custom_audience_id": custom_audience_id,
        "day": DAY,
        "sha256": published.sha256,
        "path": published.path,
        "session_id": SESSION,
        "opened_at": opened_at,
        "first_content": content_of(rows[:1000]),
        "second_content": content_of(rows[1000:2000]),
    }
    with delivery.database.transaction() as connection:
        for statement in STATE.split(";"):
            connection.execute(text(statement), values)


def content_of(rows: object) -> str:
    digest = hashlib.sha256()
    for piece in users_payload(rows):  # type: ignore[arg-type]
        digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize("age", [timedelta(minutes=5), timedelta(hours=5)])
def test_an_open_delta_of_the_first_edition_is_finished(
    first_edition: SandboxDelivery, age: timedelta
) -> None:
    leave_open_delta(first_edition, datetime.now(UTC) - age)

    upgrade(first_edition.database)
    summary = first_edition.upload()

    assert first_edition.sandbox.members() == keys(CROWD)
    assert (summary.rows, summary.people_in_audience) == (2000, 3000)
    batches = first_edition.sandbox.batches()
    assert [batch["times_received"] for batch in batches] == [1, 1, 1]
    assert (len({batch["session_id"] for batch in batches}) == 1) == (age < timedelta(hours=1))
    assert remove(first_edition, leaving(emails=[CROWD[5][0]])).people_in_audience == 2999
