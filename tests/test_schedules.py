"""What the schedules ask for."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import fsspec
import pytest

from mm_pipelines.definitions import defs
from mm_pipelines.partitions import CONFIG, AudienceDay
from mm_pipelines.schedules import (
    audience_audit_schedule,
    daily_removals_schedule,
    daily_report_schedule,
    daily_upload_schedule,
    retention_schedule,
    token_refresh_schedule,
)

AT_NIGHT = datetime(2026, 11, 21, 3, tzinfo=UTC)


def tick(schedule: dg.ScheduleDefinition, at: datetime = AT_NIGHT) -> dg.ScheduleEvaluationContext:
    return dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=defs.get_repository_def()
    )


@pytest.fixture
def newsletter_list() -> Iterator[Path]:
    path = CONFIG.directory / "customers" / "acme_newsletter" / "2026-11-20.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("email\n", encoding="utf-8")
    yield path
    path.unlink()


# Dagster names its own tags of multi-partition keys so.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_yesterdays_list_is_uploaded_where_there_is_one(newsletter_list: Path) -> None:
    answer = daily_upload_schedule.evaluate_tick(tick(daily_upload_schedule))
    [request] = answer.run_requests or []
    assert request.partition_key == "acme_newsletter|2026-11-20"
    again = daily_upload_schedule.evaluate_tick(tick(daily_upload_schedule)).run_requests or []
    assert [other.run_key for other in again] == [request.run_key]


# Dagster names its own tags of multi-partition keys so.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_a_place_out_of_reach_keeps_no_other_audience_from_its_upload(
    newsletter_list: Path,
) -> None:
    out_of_reach = CONFIG.directory / "customers" / "acme_loyalty"
    out_of_reach.write_text("a file where a folder should be", encoding="utf-8")
    try:
        answer = daily_upload_schedule.evaluate_tick(tick(daily_upload_schedule))
    finally:
        out_of_reach.unlink()
    [request] = answer.run_requests or []
    assert request.partition_key == "acme_newsletter|2026-11-20"


def test_a_day_without_lists_is_skipped_with_the_reason() -> None:
    answer = daily_upload_schedule.evaluate_tick(tick(daily_upload_schedule))
    assert not answer.run_requests
    assert answer.skip_message == (
        "No list of 2026-11-20 exists for acme_newsletter, acme_loyalty, globex_customers"
    )


# Dagster names its own tags of multi-partition keys so.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_people_are_taken_out_where_a_list_says_so() -> None:
    assert not daily_removals_schedule.evaluate_tick(tick(daily_removals_schedule)).run_requests
    memory = fsspec.filesystem("memory")
    url = AudienceDay("acme_newsletter", date(2026, 11, 20)).removal_lists[0].name
    memory.pipe(url, b"email\n")
    requests = daily_removals_schedule.evaluate_tick(tick(daily_removals_schedule)).run_requests
    memory.rm(url)
    assert requests
    assert "acme_newsletter|2026-11-20" in [request.partition_key for request in requests]


def test_the_audit_runs_every_morning() -> None:
    assert audience_audit_schedule.evaluate_tick(tick(audience_audit_schedule)).run_requests


def test_every_page_is_pulled_once_an_hour() -> None:
    requests = token_refresh_schedule.evaluate_tick(tick(token_refresh_schedule)).run_requests or []
    assert [request.partition_key for request in requests] == ["acme", "globex"]
    assert len({request.run_key for request in requests}) == 2


@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_every_pages_report_is_made_at_the_days_end_and_after_it() -> None:
    requests = [
        request
        for at in (
            datetime(2026, 11, 20, 23, 50, tzinfo=CONFIG.zone),
            datetime(2026, 11, 21, 0, 15, tzinfo=CONFIG.zone),
        )
        for request in daily_report_schedule.evaluate_tick(
            tick(daily_report_schedule, at)
        ).run_requests
        or []
    ]
    keys = ["2026-11-20|acme", "2026-11-20|globex"]
    assert [request.partition_key for request in requests] == [*keys, *keys]
    assert len({request.run_key for request in requests}) == 4


def test_retention_runs_every_night() -> None:
    assert retention_schedule.evaluate_tick(tick(retention_schedule)).run_requests
