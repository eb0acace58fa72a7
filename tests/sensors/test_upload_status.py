"""upload_status_sensor requests each due partition once and reports what it pauses."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import make_url

from mm_pipelines.definitions import defs
from mm_pipelines.jobs import token_refresh
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors import upload_status_sensor
from mm_pipelines.sensors.run_records import REQUESTED_FOR_TAG
from mm_pipelines.sensors.run_requests import (
    MAX_ATTEMPTS,
    MAX_RUNS_PER_TICK,
    PendingWork,
    build_run_requests,
    wait_after,
)
from mm_pipelines.warehouse.database import Database
from tests.match_status.ledger import MONDAY, PAGE_ID, TUESDAY, Ledger
from tests.runs import changed_earlier, failed_until_paused

# tests/mm.yaml begins on the 18th.
WEDNESDAY, THURSDAY = MONDAY + timedelta(days=2), TUESDAY + timedelta(days=2)
KEY = f"acme_newsletter|{WEDNESDAY}"
OTHER_KEY = f"acme_newsletter|{THURSDAY}"


class Surroundings:
    """What the sensor reads: a ledger and Dagster's run records."""

    def __init__(self, database: Database, url: str, instance: dg.DagsterInstance) -> None:
        self.database = database
        self.ledger = Ledger(database)
        self.instance = instance
        # A sensor reads, it never claims.
        read_only = make_url(url).update_query_dict(
            {"options": "-c default_transaction_read_only=on -c timezone=UTC"}
        )
        self._resource = DatabaseResource(url=read_only.render_as_string(hide_password=False))

    def tick(self) -> dg.SensorResult:
        """Evaluate the sensor."""
        with dg.build_sensor_context(
            instance=self.instance, resources={"mm_database": self._resource}
        ) as context:
            result = upload_status_sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def requested(self) -> list[str | None]:
        """The partitions that the sensor requests now."""
        return [request.partition_key for request in self.tick().run_requests or []]

    def skip_message(self) -> str:
        """The skip message of a tick without requests."""
        result = self.tick()
        assert not result.run_requests
        assert result.skip_reason is not None
        return result.skip_reason.skip_message or ""

    def runs(
        self,
        status: dg.DagsterRunStatus,
        *,
        key: str = KEY,
        asset: str = "match_status",
        ours: bool = True,
        job: str = "__ASSET_JOB",
    ) -> None:
        """A run in this state."""
        tags = {"dagster/partition": key} | ({REQUESTED_FOR_TAG: asset} if ours else {})
        selection = frozenset({dg.AssetKey(asset)}) if job == "__ASSET_JOB" else None
        create_run_for_test(
            self.instance, job_name=job, status=status, tags=tags, asset_selection=selection
        )

    def ages(self, by: timedelta) -> None:
        """Move the last change of every run's status back in time."""
        changed_earlier(self.instance, by)

    def pulled(self, *, minutes_ago: int, finished: bool = True) -> None:
        """A pull of the Page's tokens."""
        self.ledger.execute(
            "insert into mm.token_pull (page_id, method, started_at, finished_at) values "
            "(:page_id, 'listing', now() - :ago, case when :finished then now() end)",
            page_id=PAGE_ID,
            ago=timedelta(minutes=minutes_ago),
            finished=finished,
        )


@pytest.fixture
def surroundings(database: Database, database_url: str) -> Iterator[Surroundings]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Surroundings(database, database_url, instance)


def test_without_due_work_nothing_is_requested(surroundings: Surroundings) -> None:
    assert surroundings.skip_message() == "No work is due"


def test_a_report_requests_the_day_that_it_is_about(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY, hours_ago=2)
    surroundings.ledger.delivers(500, THURSDAY, hours_ago=1)
    surroundings.ledger.hears(500)
    (request,) = surroundings.tick().run_requests or []
    assert request.partition_key == OTHER_KEY
    assert request.asset_selection == [dg.AssetKey("match_status")]


def test_many_reports_of_a_day_are_one_run(surroundings: Surroundings) -> None:
    for _ in range(30):
        surroundings.ledger.delivers(1000, WEDNESDAY)
        surroundings.ledger.hears(1000)
    assert surroundings.requested() == [KEY]


def test_repeated_ticks_request_the_same_run(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    keys = {request.run_key for _ in range(3) for request in surroundings.tick().run_requests or []}
    assert len(keys) == 1


def test_work_in_flight_is_not_requested_again(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.runs(dg.DagsterRunStatus.STARTED)
    assert "in flight" in surroundings.skip_message()


def test_an_upload_in_flight_computes_the_status_itself(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.runs(dg.DagsterRunStatus.STARTED, ours=False, job="daily_upload")
    assert "in flight" in surroundings.skip_message()


def test_a_run_in_flight_for_other_work_delays_nothing(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.runs(dg.DagsterRunStatus.STARTED, key=OTHER_KEY)
    surroundings.runs(dg.DagsterRunStatus.STARTED, asset="customer_list")
    assert surroundings.requested() == [KEY]


def test_a_run_that_was_never_launched_is_requested_with_the_same_key(
    surroundings: Surroundings,
) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    before = [request.run_key for request in surroundings.tick().run_requests or []]
    surroundings.runs(dg.DagsterRunStatus.NOT_STARTED)
    assert [request.run_key for request in surroundings.tick().run_requests or []] == before


def test_a_failed_run_is_retried_later_with_another_key(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    (first,) = surroundings.tick().run_requests or []
    surroundings.runs(dg.DagsterRunStatus.FAILURE)
    assert "failed 1 times; next attempt at" in surroundings.skip_message()
    surroundings.ages(wait_after(1))
    (second,) = surroundings.tick().run_requests or []
    assert first.run_key != second.run_key
    assert str(second.run_key).endswith("attempt-2")


def test_the_wait_doubles() -> None:
    assert [wait_after(failures).total_seconds() for failures in range(1, 8)] == [
        *(30, 60, 120, 240, 480, 480, 480)
    ]


def test_a_partition_that_fails_five_times_is_paused_and_shown(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    failed_until_paused(surroundings.instance, "match_status", KEY)
    surroundings.ages(timedelta(days=1))
    assert f"match_status of {KEY} is paused after 5 failed runs" in surroundings.skip_message()


def test_a_materialization_by_hand_ends_the_pause(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    failed_until_paused(surroundings.instance, "match_status", KEY)
    surroundings.ledger.refreshes(WEDNESDAY)
    surroundings.ledger.hears(7)
    (request, _) = surroundings.tick().run_requests or []
    assert request.partition_key == KEY
    assert str(request.run_key).endswith("attempt-1")


def test_a_newer_report_ends_the_pause(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    failed_until_paused(surroundings.instance, "match_status", KEY)
    surroundings.ledger.hears(1000)
    assert "failed 5 times; next attempt at" in surroundings.skip_message()
    surroundings.ages(wait_after(MAX_ATTEMPTS))
    (request,) = surroundings.tick().run_requests or []
    assert str(request.run_key).endswith("attempt-6")


def test_every_newer_report_gets_a_run_key_of_its_own(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    for _ in range(MAX_ATTEMPTS + 2):
        surroundings.runs(dg.DagsterRunStatus.FAILURE)
    surroundings.ages(timedelta(hours=1))
    surroundings.ledger.hears(1000)
    (request,) = surroundings.tick().run_requests or []
    assert str(request.run_key).endswith(f"attempt-{MAX_ATTEMPTS + 3}")


def test_a_report_from_a_clock_before_ours_does_not_hide_the_failures(
    surroundings: Surroundings,
) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.execute(
        "update mm.webhook_event set received_at = now() + interval '1 hour'"
    )
    failed_until_paused(surroundings.instance, "match_status", KEY)
    assert "is paused" in surroundings.skip_message()


def test_a_newer_status_ends_the_pause_of_a_pull(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(WEDNESDAY)
    failed_until_paused(surroundings.instance, "subscription_tokens", "acme")
    surroundings.ages(timedelta(hours=1))
    assert "subscription_tokens of acme is paused" in surroundings.skip_message()
    surroundings.ledger.execute("update mm.match_status set last_event_at = now()")
    assert surroundings.requested() == ["acme"]


def test_a_paused_partition_does_not_delay_the_others(surroundings: Surroundings) -> None:
    for day in (WEDNESDAY, THURSDAY):
        surroundings.ledger.delivers(1000, day, hours_ago=25)
    failed_until_paused(surroundings.instance, "match_status", KEY)
    assert surroundings.requested() == [OTHER_KEY]


def test_days_reported_by_the_run_of_another_day_are_next(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY, hours_ago=2)
    surroundings.ledger.delivers(500, THURSDAY, hours_ago=1)
    surroundings.ledger.hears(1000)
    surroundings.ledger.hears(500)
    surroundings.ledger.refreshes(WEDNESDAY)
    assert OTHER_KEY in surroundings.requested()
    surroundings.ledger.refreshes(THURSDAY)
    assert OTHER_KEY not in surroundings.requested()


def test_a_report_that_outran_our_acknowledgement_is_picked_up(surroundings: Surroundings) -> None:
    session = surroundings.ledger.delivers(1000, WEDNESDAY, status="sent")
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(WEDNESDAY)
    assert surroundings.requested() == []
    surroundings.ledger.acknowledges(session)
    assert surroundings.requested() == [KEY]


def test_an_overdue_batch_is_requested_at_growing_intervals(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY, hours_ago=25)
    assert surroundings.requested() == [KEY]
    surroundings.ledger.refreshes(WEDNESDAY)
    assert surroundings.requested() == []
    surroundings.ledger.execute("update mm.match_status set as_of = as_of - interval '61 minutes'")
    assert surroundings.requested() == [KEY]
    surroundings.ledger.execute(
        "update mm.upload_batch set acknowledged_at = now() - interval '48 hours'"
    )
    surroundings.ledger.execute("update mm.match_status set as_of = now() - interval '11 hours'")
    assert surroundings.requested() == []


def test_a_batch_within_its_deadline_requests_nothing(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY, hours_ago=23)
    assert surroundings.requested() == []


def test_reports_about_an_unconfigured_audience_are_kept_and_noted(
    surroundings: Surroundings,
) -> None:
    surroundings.ledger.hears(1000, custom_audience_id="777")
    assert (
        "1 reports concern Custom Audiences that mm.yaml does not name"
        in surroundings.skip_message()
    )
    assert surroundings.ledger.pending() == 1


def test_reports_about_an_audience_without_uploads_are_noted(surroundings: Surroundings) -> None:
    surroundings.ledger.hears(1000)
    assert "reports about acme_newsletter cannot be assigned" in surroundings.skip_message()


def test_a_day_before_the_start_date_is_noted_and_not_fatal(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, MONDAY)
    surroundings.ledger.hears(1000)
    assert f"acme_newsletter|{MONDAY} has no partition" in surroundings.skip_message()


def test_a_tick_requests_a_bounded_number_of_runs(surroundings: Surroundings) -> None:
    work = [
        PendingWork("match_status", f"partition {number}", None)
        for number in range(MAX_RUNS_PER_TICK + 5)
    ]
    outcome = build_run_requests(surroundings.instance, surroundings.database, work)
    assert len(outcome.requests) == MAX_RUNS_PER_TICK
    assert outcome.notes == [
        f"more than {MAX_RUNS_PER_TICK} partitions are due; the next ticks request the rest"
    ]


def test_a_newer_status_requests_the_pages_tokens(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(WEDNESDAY)
    (request,) = surroundings.tick().run_requests or []
    assert request.partition_key == "acme"
    assert request.asset_selection == [dg.AssetKey("subscription_tokens")]


def test_a_pull_in_flight_by_the_schedule_is_enough(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(WEDNESDAY)
    surroundings.runs(dg.DagsterRunStatus.STARTED, key="acme", ours=False, job=token_refresh.name)
    assert surroundings.requested() == []


def test_tokens_are_pulled_at_most_every_15_minutes(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(WEDNESDAY)
    surroundings.pulled(minutes_ago=14)
    surroundings.ledger.execute(
        "update mm.match_status set last_event_at = now() - interval '1 minute'"
    )
    assert surroundings.requested() == []
    surroundings.ledger.execute(
        "update mm.token_pull set started_at = now() - interval '16 minutes'"
    )
    assert surroundings.requested() == ["acme"]


def test_tokens_that_the_last_pull_saw_are_not_pulled_again(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(WEDNESDAY)
    surroundings.ledger.execute(
        "update mm.match_status set last_event_at = now() - interval '1 hour'"
    )
    surroundings.pulled(minutes_ago=30)
    assert surroundings.requested() == []


def test_an_unfinished_pull_does_not_count(surroundings: Surroundings) -> None:
    surroundings.ledger.delivers(1000, WEDNESDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(WEDNESDAY)
    surroundings.pulled(minutes_ago=0, finished=False)
    assert surroundings.requested() == ["acme"]


# Dagster names its own tags of multi-partition keys so.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_dagster_accepts_the_requests(surroundings: Surroundings, database_url: str) -> None:
    surroundings.ledger.delivers(1000, THURSDAY)
    surroundings.ledger.hears(1000)
    surroundings.ledger.refreshes(THURSDAY)
    surroundings.ledger.delivers(500, WEDNESDAY)
    surroundings.ledger.hears(500)
    with dg.build_sensor_context(
        instance=surroundings.instance,
        repository_def=defs.get_repository_def(),
        resources={"mm_database": DatabaseResource(url=database_url)},
    ) as context:
        requests = upload_status_sensor.evaluate_tick(context).run_requests
    assert {(r.partition_key, *(r.asset_selection or [])) for r in requests or []} == {
        (KEY, dg.AssetKey("match_status")),
        ("acme", dg.AssetKey("subscription_tokens")),
    }
