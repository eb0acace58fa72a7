"""The summary of one audience."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from mm_pipelines.report.audience_summary import as_markdown, summarize
from mm_pipelines.warehouse.database import Database
from tests.match_status.ledger import AUDIENCE, MONDAY, TUESDAY, Ledger

DEFERRED = text("""
insert into mm.deferred_work (asset, partition_key, due_at, reason, attempts, run_id)
values ('audience_upload', :key, '2026-11-17 14:30+00', 'Meta throttles the ad account', 1, 'run')
""")


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def markdown(database: Database) -> str:
    with database.transaction() as connection:
        return as_markdown(summarize(connection, AUDIENCE))


def test_an_audience_shows_its_size_match_rate_and_days(database: Database, ledger: Ledger) -> None:
    ledger.delivers(1000, MONDAY)
    ledger.hears(1000, lower=400, upper=500)
    ledger.status(MONDAY)
    shown = markdown(database)
    assert "**Newsletter**: 1,000 people, matched 400 to 500 (40% to 50%)" in shown
    assert "adsmanager/audiences?act=1)" in shown
    assert f"| {MONDAY} | complete | 0 | 1,000 | 40% to 50% |" in shown
    assert "Nothing waits." in shown


def test_work_that_waits_is_listed_with_its_reason(database: Database, ledger: Ledger) -> None:
    ledger.freezes(TUESDAY, 500, completed=False)
    with database.transaction() as connection:
        for key in (f"{AUDIENCE}|{TUESDAY}", f"other|{TUESDAY}"):
            connection.execute(DEFERRED, {"key": key})
    shown = markdown(database)
    assert (
        f"- audience_upload of {AUDIENCE}|{TUESDAY} continues at 2026-11-17 14:30 UTC: "
        "Meta throttles the ad account"
    ) in shown
    assert f"- The upload of {TUESDAY} is open: 0 of 500 rows acknowledged." in shown
    assert "other|" not in shown


def test_an_audience_without_history_says_so(database: Database) -> None:
    shown = markdown(database)
    assert f"**{AUDIENCE}**: 0 people, matched not reported yet" in shown
    assert "Ads Manager" not in shown


def test_only_the_newest_days_are_listed(database: Database, ledger: Ledger) -> None:
    for number in range(20):
        day = MONDAY + timedelta(days=number)
        ledger.delivers(10, day)
        ledger.status(day)
    shown = markdown(database)
    assert str(MONDAY + timedelta(days=19)) in shown
    assert str(MONDAY + timedelta(days=5)) not in shown
