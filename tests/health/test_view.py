"""mm.health has one row for each thing that should not wait."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from mm_pipelines import health
from mm_pipelines.health import AccessTokenState, ExpectedFreshness
from mm_pipelines.warehouse.database import Database

PAGE_ID = "134141414124123"
EXPECTED = (
    ExpectedFreshness("audience", "acme_newsletter", PAGE_ID, timedelta(hours=36)),
    ExpectedFreshness("page", "acme", PAGE_ID, timedelta(hours=3)),
)


@pytest.fixture
def watched(database: Database) -> Database:
    """A database whose expectations were written two hours ago."""
    with database.transaction() as connection:
        health.expect(connection, EXPECTED)
        connection.execute(
            text("update mm.freshness set configured_at = now() - interval '2 hours'")
        )
    return database


def execute(database: Database, statement: str, **values: object) -> None:
    with database.transaction() as connection:
        connection.execute(text(statement), values)


def waiting(database: Database) -> Mapping[tuple[str, str], tuple[int, int]]:
    """How many of each wait, and for how many minutes."""
    with database.transaction() as connection:
        items = health.read(connection)
    return {
        (item.item, item.subject): (item.waiting, round(item.age_seconds / 60)) for item in items
    }


def store_event(database: Database, field: str, page_id: str, minutes: int) -> None:
    execute(
        database,
        "insert into mm.webhook_event (dedupe_key, field, page_id, payload, received_at) values "
        "(gen_random_uuid(), :field, :page_id, '{}', now() - make_interval(mins => :minutes))",
        field=field,
        page_id=page_id,
        minutes=minutes,
    )


def test_a_new_installation_waits_for_the_first_pulls_only(watched: Database) -> None:
    assert waiting(watched) == {("token_pull", "acme"): (1, 120)}


def test_the_age_of_a_pages_pull_is_that_of_its_newest_complete_one(watched: Database) -> None:
    execute(
        watched,
        "insert into mm.token_pull (page_id, method, complete, started_at, finished_at) values "
        "(:page_id, 'listing', true, now() - interval '30 min', now()), "
        "(:page_id, 'listing', false, now() - interval '5 min', null)",
        page_id=PAGE_ID,
    )
    assert waiting(watched) == {("token_pull", "acme"): (1, 30)}


def test_pending_events_are_counted_by_field_but_for_foreign_pages_and_messages(
    watched: Database,
) -> None:
    for minutes in (1, 7):
        store_event(watched, "messaging_optins", PAGE_ID, minutes)
    store_event(watched, "messaging_optins", "999", 90)
    store_event(watched, "messages", PAGE_ID, 90)
    assert waiting(watched)["pending_event", "messaging_optins"] == (2, 7)
    assert [key for key in waiting(watched) if key[0] == "pending_event"] == [
        ("pending_event", "messaging_optins")
    ]


def test_batches_wait_until_their_day_is_complete(watched: Database) -> None:
    execute(
        watched,
        "insert into mm.upload_batch (audience, day, session_id, batch_seq, row_count, "
        "content_sha256, status, acknowledged_at) values "
        "('acme_newsletter', '2026-11-20', 1, 1, 5, 'x', 'acknowledged', now() - interval '1h')",
    )
    assert waiting(watched)["unreported_batch", "acme_newsletter"] == (1, 60)
    # A poll completed the day: the batch has no webhook, and waits for none.
    execute(
        watched,
        "insert into mm.match_status (audience, day, rows_uploaded, rows_processed, rows_failed, "
        "status, as_of) values ('acme_newsletter', '2026-11-20', 5, 5, 0, 'complete', now())",
    )
    assert ("unreported_batch", "acme_newsletter") not in waiting(watched)


def test_open_opt_outs_and_deferred_work_are_counted(watched: Database) -> None:
    execute(
        watched,
        "insert into mm.unsubscribe_request (page_id, psid, received_at) "
        "values (:page_id, '77', now() - interval '20 min')",
        page_id=PAGE_ID,
    )
    execute(
        watched,
        "insert into mm.deferred_work (asset, partition_key, due_at, reason, attempts, run_id) "
        "values ('audience_upload', 'a|2026-11-20', now() - interval '9 min', 'throttle', 1, 'r'), "
        "('token_details', 'acme', now() + interval '9 min', 'throttle', 1, 'r')",
    )
    found = waiting(watched)
    assert found["open_opt_out", PAGE_ID] == (1, 20)
    assert found["deferred_work", "audience_upload"] == (1, 9)
    assert found["deferred_work", "token_details"] == (1, 0)


def test_a_refused_token_waits_until_another_one_is_accepted(watched: Database) -> None:
    execute(
        watched,
        "insert into mm.throttle (account, refused_token, refused_reason, refused_at, observed_at) "
        "values ('page:1', 'fingerprint', 'expired', now() - interval '4 min', "
        "now() - interval '5 min')",
    )
    assert waiting(watched)["refused_token", "page:1"] == (1, 4)
    execute(watched, "update mm.throttle set observed_at = now()")
    assert ("refused_token", "page:1") not in waiting(watched)


def test_tokens_that_expire_within_two_weeks_or_lack_permissions_wait(watched: Database) -> None:
    now = datetime.now(UTC)
    states = [
        AccessTokenState("LONG", True, None, now + timedelta(days=60), ()),
        AccessTokenState("SOON", True, None, now + timedelta(days=13, hours=23), ()),
        AccessTokenState("EVER", True, None, None, ("pages_messaging",)),
        AccessTokenState("DEAD", False, "revoked", None, ("pages_messaging",)),
    ]
    with watched.transaction() as connection:
        health.record_access_tokens(connection, states)
    found = waiting(watched)
    assert found["expiring_token", "SOON"] == (1, 60)
    assert found["missing_permission", "EVER"] == (1, 0)
    assert found["invalid_token", "DEAD"] == (1, 0)
    assert {subject for _, subject in found} == {"acme", "SOON", "EVER", "DEAD"}
    with watched.transaction() as connection:
        health.record_access_tokens(connection, states[:1])
    assert {subject for _, subject in waiting(watched)} == {"acme"}


def test_audiences_and_pages_are_stale_after_their_own_time(watched: Database) -> None:
    execute(watched, "update mm.freshness set configured_at = now() - interval '40 hours'")
    found = waiting(watched)
    assert found["stale_audience", "acme_newsletter"] == (1, 240)
    assert found["stale_page", "acme"] == (1, 37 * 60)
    # A day counts when its match status followed its validation, new people or not.
    execute(
        watched,
        "insert into mm.customer_list (audience, day, fingerprint, rows, files, columns, "
        "phone_convention, validated_at) values ('acme_newsletter', '2026-11-20', 'f', 1, '[]', "
        "'{}', '{}', now() - interval '1 hour')",
    )
    assert ("stale_audience", "acme_newsletter") in waiting(watched)
    execute(
        watched,
        "insert into mm.match_status (audience, day, rows_uploaded, rows_processed, rows_failed, "
        "status, as_of) values ('acme_newsletter', '2026-11-20', 0, 0, 0, 'complete', now())",
    )
    assert ("stale_audience", "acme_newsletter") not in waiting(watched)


def test_an_audience_that_left_mm_yaml_is_no_longer_watched(watched: Database) -> None:
    execute(watched, "update mm.freshness set configured_at = now() - interval '40 hours'")
    with watched.transaction() as connection:
        health.expect(connection, EXPECTED[1:])
    assert {subject for _, subject in waiting(watched)} == {"acme"}
