"""The status of a day's batches."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mm_pipelines.match_status import partition_status
from mm_pipelines.warehouse.database import Database
from tests.match_status.ledger import MONDAY, TUESDAY, Ledger


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def test_a_day_goes_from_waiting_to_processing_to_complete(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.delivers(500)
    assert ledger.status().status == "waiting"
    ledger.hears(1000)
    assert ledger.status().status == "processing"
    ledger.hears(500)
    row = ledger.status()
    assert (row.status, row.source) == ("complete", "webhook")
    assert (row.rows_uploaded, row.rows_processed, row.rows_failed) == (1500, 1500, 0)
    assert (row.batches_delivered, row.batches_reported, row.rows_unaccounted) == (2, 2, 0)


def test_the_match_rate_is_of_the_people_in_the_audience_and_not_of_the_day(
    ledger: Ledger,
) -> None:
    ledger.delivers(1000, MONDAY)
    ledger.hears(1000, lower=400, upper=500)
    monday = ledger.status(MONDAY)
    ledger.delivers(3000, TUESDAY)
    ledger.hears(3000, lower=1000, upper=1200)
    tuesday = ledger.status(TUESDAY)
    assert (monday.match_rate_lower, monday.match_rate_upper) == (0.4, 0.5)
    assert tuesday.people_acknowledged == 4000
    assert (tuesday.match_rate_lower, tuesday.match_rate_upper) == (0.25, 0.3)


def test_members_who_fill_up_a_small_upload_are_rows_and_not_people(ledger: Ledger) -> None:
    ledger.delivers(2000, MONDAY)
    session_id = ledger.delivers(1000, TUESDAY)
    ledger.execute(
        "update mm.upload_batch set new_people = 60 where session_id = :session_id",
        session_id=session_id,
    )
    ledger.hears(2000)
    ledger.hears(1000, lower=1030, upper=1030)
    row = ledger.status(TUESDAY)
    assert (row.rows_uploaded, row.rows_processed, row.people_acknowledged) == (1000, 1000, 2060)
    assert (row.status, row.match_rate_lower) == ("complete", 0.5)


def test_computed_again_the_row_is_the_same_also_after_later_days(ledger: Ledger) -> None:
    ledger.delivers(1000, MONDAY)
    ledger.hears(1000, lower=400, upper=500)
    before = ledger.status(MONDAY)
    ledger.delivers(3000, TUESDAY)
    ledger.hears(3000, lower=1000, upper=1200)
    ledger.status(TUESDAY)
    again = ledger.status(MONDAY)
    assert replace(again, as_of=before.as_of) == before


def test_the_row_returned_is_the_row_stored(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000)
    row = ledger.status()
    with ledger.database.transaction() as connection:
        assert partition_status.find(connection, row.audience, row.day) == row


@pytest.mark.parametrize("digits", [10**30, -1])
def test_a_bound_that_is_no_count_is_none(ledger: Ledger, digits: int) -> None:
    ledger.delivers(1000)
    ledger.hears(1000, lower=digits, upper=digits)
    row = ledger.status()
    assert (row.status, row.lower_bound, row.upper_bound) == ("complete", None, None)


def test_a_report_other_than_success_is_a_failure(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.delivers(500)
    ledger.hears(500, status="PARTIAL_SOMETHING")
    row = ledger.status()
    assert (row.status, row.rows_failed, row.rows_unaccounted) == ("failed", 500, 1000)


def test_a_batch_without_report_is_overdue_after_the_deadline(ledger: Ledger) -> None:
    ledger.delivers(1000, hours_ago=25)
    ledger.delivers(500, hours_ago=25)
    ledger.hears(500)
    row = ledger.status()
    assert (row.status, row.rows_unaccounted) == ("overdue", 1000)
    assert row.deadline_at is not None
    assert row.deadline_at < datetime.now(UTC)


def test_a_poll_replaces_webhooks_that_do_not_arrive(ledger: Ledger) -> None:
    first, second = ledger.delivers(1000, hours_ago=25), ledger.delivers(1000, hours_ago=25)
    ledger.polls(first, lower=300, upper=400)
    assert (ledger.status().status, ledger.status().source) == ("overdue", "poll")
    ledger.polls(first, second, lower=700, upper=800)
    row = ledger.status()
    assert (row.status, row.source, row.rows_processed) == ("complete", "poll", 2000)
    assert (row.lower_bound, row.upper_bound) == (700, 800)


def test_a_session_that_meta_has_not_finished_is_no_report(ledger: Ledger) -> None:
    session = ledger.delivers(1000, hours_ago=25)
    ledger.polls(session, progress="50", lower=10, upper=20)
    row = ledger.status()
    assert (row.status, row.source, row.lower_bound) == ("overdue", "poll", 10)


def test_a_later_poll_does_not_change_a_row_that_an_earlier_one_completed(ledger: Ledger) -> None:
    session = ledger.delivers(1000, hours_ago=25)
    ledger.polls(session, lower=300, upper=400)
    before = ledger.status()
    ledger.polls(session, lower=999, upper=1000)
    assert replace(ledger.status(), as_of=before.as_of) == before


def test_a_webhook_after_the_poll_takes_its_place(ledger: Ledger) -> None:
    session = ledger.delivers(1000, hours_ago=25)
    ledger.polls(session, lower=300, upper=400)
    ledger.hears(1000, lower=350, upper=450)
    row = ledger.status()
    assert (row.status, row.source, row.lower_bound) == ("complete", "webhook", 350)


def test_a_day_without_new_people_is_complete(ledger: Ledger) -> None:
    ledger.delivers(1000, MONDAY)
    ledger.hears(1000, lower=400, upper=500)
    ledger.status(MONDAY)
    ledger.freezes(TUESDAY, 0, completed=True)
    row = ledger.status(TUESDAY)
    assert (row.status, row.rows_uploaded, row.last_event_at) == ("complete", 0, None)
    assert (row.lower_bound, row.match_rate_lower) == (400, 0.4)


def test_a_day_that_was_not_delivered_yet_is_waiting(ledger: Ledger) -> None:
    assert ledger.status().status == "waiting"
    ledger.freezes(MONDAY, 500, completed=False)
    assert ledger.status().status == "waiting"


def test_a_delivery_that_broke_off_is_not_complete(ledger: Ledger) -> None:
    ledger.freezes(MONDAY, 2000, completed=False)
    ledger.delivers(1000)
    ledger.hears(1000)
    assert ledger.status().status == "processing"


def test_a_batch_of_an_abandoned_session_counts_for_nothing(ledger: Ledger) -> None:
    ledger.delivers(1000, status="superseded")
    ledger.delivers(1000)
    ledger.hears(1000)
    row = ledger.status()
    assert (row.status, row.rows_uploaded) == ("complete", 1000)


def test_people_who_were_removed_are_not_divided_by(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.freezes(MONDAY, 200, completed=True)
    ledger.execute(
        "insert into mm.removal_batch (audience, day, session_id, batch_seq, row_count, "
        "content_sha256, status, acknowledged_at, delta_id, first_row) "
        "select audience, day, 99, 1, 200, 'x', 'acknowledged', now(), id, 0 from mm.upload_delta"
    )
    ledger.hears(1000, lower=400, upper=400)
    assert ledger.status().match_rate_lower == 0.5


def test_of_reports_out_of_order_the_latest_in_metas_time_has_the_bounds(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.delivers(1000)
    ledger.hears(1000, lower=800, upper=900, timestamp=1763000060)
    ledger.hears(1000, lower=400, upper=500, timestamp=1763000000)
    row = ledger.status()
    assert (row.status, row.lower_bound, row.match_rate_lower) == ("complete", 800, 0.4)


def test_of_reports_of_the_same_second_that_of_the_latest_batch_gives_the_bounds(
    ledger: Ledger,
) -> None:
    ledger.delivers(10_000, hours_ago=2)
    ledger.delivers(2_000, hours_ago=1)
    ledger.hears(2_000, lower=7_306, upper=8_000, time=1763000000)
    ledger.hears(10_000, lower=5_787, upper=6_397, time=1763000000)
    status = ledger.status()
    assert (status.lower_bound, status.upper_bound) == (7_306, 8_000)


@pytest.mark.parametrize("in_one_run", [True, False])
def test_reports_of_equal_batches_in_reverse_give_the_bounds_of_the_later_one(
    ledger: Ledger, in_one_run: bool
) -> None:
    ledger.delivers(10_000, hours_ago=2)
    ledger.delivers(10_000, hours_ago=1)
    ledger.hears(10_000, lower=7_306, upper=8_000, time=1763000000)
    if not in_one_run:
        ledger.refreshes()
    ledger.hears(10_000, lower=5_787, upper=6_397, time=1763000000)
    status = ledger.status()
    assert (status.lower_bound, status.upper_bound) == (7_306, 8_000)


def test_a_day_without_new_people_has_the_bounds_of_the_latest_batch(ledger: Ledger) -> None:
    ledger.delivers(10_000, MONDAY, hours_ago=2)
    ledger.delivers(2_000, MONDAY, hours_ago=1)
    ledger.hears(2_000, lower=7_306, upper=8_000, time=1763000000)
    ledger.hears(10_000, lower=5_787, upper=6_397, time=1763000000)
    ledger.refreshes(MONDAY)
    ledger.freezes(TUESDAY, 0, completed=True)
    status = ledger.status(TUESDAY)
    assert (status.status, status.lower_bound, status.upper_bound) == ("complete", 7_306, 8_000)


def test_an_unknown_bound_is_no_number(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000, lower=-1, upper=-1)
    row = ledger.status()
    assert (row.status, row.lower_bound, row.match_rate_upper) == ("complete", None, None)


def test_the_usual_rate_is_the_median_of_the_days_before(ledger: Ledger) -> None:
    ledger.delivers(1000)
    ledger.hears(1000, lower=400, upper=500)
    ledger.status()
    with ledger.database.transaction() as connection:
        assert partition_status.usual_rate(connection, "acme_newsletter", TUESDAY) is None
    for days_ago, rate in ((2, 0.2), (3, 0.6), (40, 0.9)):
        ledger.execute(
            "insert into mm.match_status (audience, day, rows_uploaded, rows_processed, "
            "rows_failed, match_rate_lower, status, as_of) "
            "select audience, day - :days_ago, 0, 0, 0, :rate, 'complete', now() "
            "from mm.match_status where day = :monday",
            days_ago=days_ago,
            rate=rate,
            monday=MONDAY,
        )
    with ledger.database.transaction() as connection:
        assert partition_status.usual_rate(connection, "acme_newsletter", TUESDAY) == 0.4
