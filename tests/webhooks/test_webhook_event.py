"""Events kept as long as they are needed, and offered again."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import page_event, webhook_event
from tests.match_status.ledger import MONDAY, PAGE_ID, Ledger

A_DAY_AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def ages(ledger: Ledger) -> None:
    """Everything that was processed was so a year ago."""
    ledger.execute("update mm.webhook_event set processed_at = now() - interval '1 year'")


def forget(ledger: Ledger, limit: int = 10_000) -> int:
    with ledger.database.transaction() as connection:
        return webhook_event.forget(
            connection,
            A_DAY_AGO,
            limit,
            acknowledged_fields=[webhook_event.UPLOAD_STATUS],
            page_ids=[PAGE_ID],
        )


def test_retention_removes_processed_events_except_those_a_status_depends_on(
    ledger: Ledger,
) -> None:
    ledger.delivers(1000)
    ledger.hears(1000, lower=400, upper=500)
    ledger.hears(7)
    before = ledger.status()
    ages(ledger)
    assert forget(ledger) == 1
    again = ledger.status()
    assert (again.status, again.match_rate_lower) == ("complete", before.match_rate_lower)
    assert again.batches_reported == 1


def test_retention_keeps_pending_and_recent_events(ledger: Ledger) -> None:
    ledger.hears(1)
    ledger.execute("update mm.webhook_event set received_at = now() - interval '1 year'")
    assert forget(ledger) == 0
    ledger.refreshes()
    assert forget(ledger) == 0


def test_retention_works_in_bounded_steps(ledger: Ledger) -> None:
    for rows in range(5):
        ledger.hears(rows)
    ledger.refreshes()
    ages(ledger)
    assert [forget(ledger, limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_replay_offers_again_what_was_received_since(ledger: Ledger) -> None:
    ledger.hears(1)
    ledger.hears(2)
    ledger.refreshes(MONDAY)
    ledger.execute(
        "update mm.webhook_event set received_at = now() - interval '2 days' "
        "where payload ->> 'num_rows' = '1'"
    )
    with ledger.database.transaction() as connection:
        assert webhook_event.replay(connection, since=A_DAY_AGO, only_field="messages") == 0
        assert webhook_event.replay(connection, since=A_DAY_AGO) == 1
    assert ledger.pending() == 1


def test_events_are_counted_by_field(ledger: Ledger) -> None:
    ledger.hears(1)
    ledger.refreshes()
    ledger.hears(2)
    with ledger.database.transaction() as connection:
        (counted,) = webhook_event.counts(connection)
    assert (counted.field, counted.events, counted.pending) == (webhook_event.UPLOAD_STATUS, 2, 1)
    assert counted.last_received_at > A_DAY_AGO


def test_pending_events_of_a_page_that_mm_yaml_does_not_name_are_removed_by_age(
    ledger: Ledger,
) -> None:
    ledger.execute(
        "insert into mm.webhook_event (dedupe_key, field, page_id, payload, received_at) values "
        "('a', 'messages', '999', '{}', now() - interval '1 year'), "
        "('b', 'messages', '999', '{}', now()), "
        f"('c', 'messages', '{PAGE_ID}', '{{}}', now() - interval '1 year')"
    )
    with ledger.database.transaction() as connection:
        removed = webhook_event.forget(
            connection, before=A_DAY_AGO, acknowledged_fields=["messages"], page_ids=[PAGE_ID]
        )
        kept = connection.execute(text("select dedupe_key from mm.webhook_event order by 1"))
        assert (removed, [row.dedupe_key for row in kept]) == (1, ["b", "c"])


def test_pending_pages_are_found_without_reading_the_events_of_other_pages(
    ledger: Ledger,
) -> None:
    ledger.execute(
        "insert into mm.webhook_event (dedupe_key, field, page_id, payload) "
        "select 'x' || n, 'messages', '999', '{}' from generate_series(1, 50000) n"
    )
    ledger.execute(
        "insert into mm.webhook_event (dedupe_key, field, page_id, payload) values "
        f"('mine', 'messages', '{PAGE_ID}', '{{}}')"
    )
    ledger.execute("analyze mm.webhook_event")
    with ledger.database.transaction() as connection:
        pages = page_event.pages_pending(connection, [PAGE_ID, "1"], ["messages", "standby"])
        assert [page.page_id for page in pages] == [PAGE_ID]
        plan = connection.execute(
            text(f"explain (analyze, buffers, format text) {page_event._PAGES.text}"),
            {"page_ids": [PAGE_ID, "1"], "fields": ["messages", "standby"]},
        )
        assert "Seq Scan on webhook_event" not in "\n".join(plan.scalars())
