"""Which batch a webhook means."""

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from tests.match_status.ledger import AUDIENCE, MONDAY, TUESDAY, Ledger


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def reported(ledger: Ledger) -> list[Any]:
    """The event assigned to each batch, in the order of the sessions."""
    with ledger.database.transaction() as connection:
        statement = "select reported_event_id from mm.upload_batch order by session_id"
        return list(connection.scalars(text(statement)))


def test_a_report_is_for_the_oldest_batch_of_as_many_rows(ledger: Ledger) -> None:
    ledger.delivers(1000, hours_ago=3)
    ledger.delivers(500, hours_ago=2)
    ledger.delivers(1000, hours_ago=1)
    ledger.hears(1000)
    ledger.refreshes()
    assert [event is not None for event in reported(ledger)] == [True, False, False]


def test_two_equal_batches_in_one_second_are_two_reports(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.delivers(1000)
    ledger.hears(1000, time=1763000000)
    ledger.hears(1000, time=1763000001)
    assert ledger.status().status == "complete"


def test_an_assignment_is_never_revised(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000)
    ledger.refreshes()
    before = reported(ledger)
    ledger.delivers(1000, hours_ago=5)
    ledger.hears(1000)
    ledger.refreshes()
    assert reported(ledger)[0] == before[0]


def test_any_day_assigns_the_whole_audience_and_makes_the_others_due(ledger: Ledger) -> None:
    ledger.delivers(1000, MONDAY, hours_ago=2)
    ledger.delivers(500, TUESDAY, hours_ago=1)
    ledger.hears(500)
    ledger.hears(1000)
    _, assignment = ledger.refreshes(MONDAY)
    assert assignment.days == {MONDAY, TUESDAY}
    assert ledger.pending() == 0
    assert ledger.due_days() == {TUESDAY}
    ledger.refreshes(TUESDAY)
    assert ledger.due_days() == set()


def test_a_report_that_fits_no_batch_is_left_over_and_reported(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(999)
    _, assignment = ledger.refreshes()
    assert (assignment.assigned, assignment.left_over) == (0, 1)
    assert ledger.pending() == 0
    assert ledger.refreshes()[1].left_over == 1


def test_a_report_may_outrun_our_acknowledgement(ledger: Ledger) -> None:
    session = ledger.delivers(1000, status="sent")
    ledger.hears(1000)
    assert ledger.refreshes()[1].left_over == 1
    ledger.acknowledges(session)
    row, assignment = ledger.refreshes()
    assert (row.status, assignment.left_over) == ("complete", 0)


def test_a_left_over_report_is_not_for_a_batch_that_was_sent_later(ledger: Ledger) -> None:
    ledger.hears(1000)
    ledger.execute("update mm.webhook_event set received_at = now() - interval '1 day'")
    ledger.delivers(1000)
    assert ledger.status().status == "waiting"


def test_a_report_on_another_apps_upload_never_takes_a_batch_of_ours(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000, app_id="111")
    _, assignment = ledger.refreshes(app_id="222")
    assert reported(ledger) == [None]
    assert (assignment.assigned, assignment.left_over) == (0, 0)
    assert ledger.pending() == 0
    ledger.hears(1000, app_id="222")
    ledger.refreshes(app_id="222")
    assert reported(ledger) != [None]


def test_without_our_app_id_every_report_counts(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000, app_id="111")
    _, assignment = ledger.refreshes()
    assert assignment.assigned == 1


def test_the_same_report_through_the_other_object_counts_once(ledger: Ledger) -> None:
    ledger.delivers(1000, MONDAY, hours_ago=2)
    ledger.delivers(1000, TUESDAY, hours_ago=1)
    ledger.hears(1000, object_="page", time=1763000000)
    ledger.hears(1000, object_="ad_account", time=1763000009)
    _, assignment = ledger.refreshes(MONDAY)
    assert (assignment.assigned, assignment.repeated, assignment.left_over) == (1, 1, 0)
    ledger.hears(1000, object_="ad_account", time=1763000100)
    ledger.hears(1000, object_="page", time=1763000101)
    _, assignment = ledger.refreshes(TUESDAY)
    assert (assignment.assigned, assignment.repeated, assignment.left_over) == (1, 1, 0)


def test_a_report_goes_to_a_polled_batch_only_after_unreported_ones(ledger: Ledger) -> None:
    polled = ledger.delivers(1000, MONDAY, hours_ago=30)
    ledger.polls(polled, lower=100, upper=200)
    ledger.delivers(1000, TUESDAY, hours_ago=1)
    ledger.hears(1000)
    assert ledger.status(TUESDAY).status == "complete"
    assert ledger.status(MONDAY).source == "poll"


def test_a_replayed_report_changes_nothing_and_does_not_wait_for_ever(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000)
    ledger.hears(7)
    ledger.refreshes()
    before = reported(ledger)
    with ledger.database.transaction() as connection:
        since = connection.execute(text("select now() - interval '1 hour'")).scalar_one()
        assert webhook_event.replay(connection, since=since) == 2
    assert ledger.pending() == 2
    ledger.refreshes()
    assert (ledger.pending(), reported(ledger)) == (0, before)


def test_runs_of_two_days_at_once_assign_each_report_once(ledger: Ledger) -> None:
    for _ in range(20):
        ledger.delivers(1000, MONDAY)
        ledger.delivers(1000, TUESDAY)
        ledger.hears(1000)
        ledger.hears(1000)
    runs = [threading.Thread(target=ledger.refreshes, args=(day,)) for day in (MONDAY, TUESDAY) * 4]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(set(reported(ledger))) == 40


def test_a_run_that_fails_leaves_its_reports_pending(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000)
    ledger.execute("alter table mm.match_status add check (rows_processed < 1000)")
    with pytest.raises(Exception, match="match_status"):
        ledger.refreshes()
    assert ledger.pending() == 1
    assert reported(ledger) == [None]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_the_order_every_report_finds_a_batch_of_its_size(
    ledger: Ledger, data: st.DataObject
) -> None:
    """As many batches of each size are reported as there were reports of it, oldest first."""
    for table in ("upload_batch", "match_status", "match_status_due", "webhook_event"):
        ledger.execute(f"delete from mm.{table}")
    sizes = data.draw(st.lists(st.sampled_from([10, 20, 30]), max_size=12))
    for age, size in enumerate(sizes):
        ledger.delivers(size, data.draw(st.sampled_from([MONDAY, TUESDAY])), hours_ago=20 - age)
    heard = data.draw(st.lists(st.sampled_from([10, 20, 30, 40]), max_size=12))
    for size in heard:
        ledger.hears(size)
        if data.draw(st.booleans()):
            ledger.refreshes(data.draw(st.sampled_from([MONDAY, TUESDAY])))
    left_over = ledger.refreshes(MONDAY)[1].left_over
    ledger.refreshes(TUESDAY)
    with ledger.database.transaction() as connection:
        rows = connection.execute(
            text(
                "select row_count, reported_event_id is not null as reported from mm.upload_batch "
                "where audience = :audience order by acknowledged_at"
            ),
            {"audience": AUDIENCE},
        ).all()
    for size in (10, 20, 30):
        of_size = [row.reported for row in rows if row.row_count == size]
        expected = min(heard.count(size), len(of_size))
        assert of_size == [True] * expected + [False] * (len(of_size) - expected)
    assert left_over == len(heard) - sum(row.reported for row in rows)
