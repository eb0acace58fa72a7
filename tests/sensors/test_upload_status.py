"""The sensor that watches for reports: it reads, asks once, and never gives up silently."""

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
from mm_pipelines.sensors.asking import (
    ASKED_FOR_TAG,
    MAX_ATTEMPTS,
    RUNS_A_TICK,
    Work,
    ask,
    wait_after,
)
from mm_pipelines.warehouse.database import Database
from tests.match_status.ledger import MONDAY, PAGE_ID, TUESDAY, Ledger
from tests.runs import ended_earlier, failed_until_set_aside

# tests/mm.yaml begins on the 18th.
WEDNESDAY, THURSDAY = MONDAY + timedelta(days=2), TUESDAY + timedelta(days=2)
KEY = f"acme_newsletter|{WEDNESDAY}"
OTHER_KEY = f"acme_newsletter|{THURSDAY}"


class Desk:
    """The sensor's surroundings: a ledger, and Dagster's run records."""

    def __init__(self, database: Database, url: str, instance: dg.DagsterInstance) -> None:
        self.ledger = Ledger(database)
        self.instance = instance
        # A sensor reads, it never claims.
        read_only = make_url(url).update_query_dict(
            {"options": "-c default_transaction_read_only=on -c timezone=UTC"}
        )
        self._resource = DatabaseResource(url=read_only.render_as_string(hide_password=False))

    def tick(self) -> dg.SensorResult:
        """What the sensor asks for now."""
        with dg.build_sensor_context(
            instance=self.instance, resources={"database": self._resource}
        ) as context:
            result = upload_status_sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def asked(self) -> list[str | None]:
        """The partitions that the sensor asks for now."""
        return [request.partition_key for request in self.tick().run_requests or []]

    def why(self) -> str:
        """Why the sensor asks for nothing."""
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
        tags = {"dagster/partition": key} | ({ASKED_FOR_TAG: asset} if ours else {})
        selection = frozenset({dg.AssetKey(asset)}) if job == "__ASSET_JOB" else None
        create_run_for_test(
            self.instance, job_name=job, status=status, tags=tags, asset_selection=selection
        )

    def ages(self, by: timedelta) -> None:
        """All runs ended so much earlier."""
        ended_earlier(self.instance, by)

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
def desk(database: Database, database_url: str) -> Iterator[Desk]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Desk(database, database_url, instance)


def test_nothing_due_is_nothing_asked(desk: Desk) -> None:
    assert desk.why() == "Nothing is due"


def test_a_report_asks_for_the_day_that_it_is_about(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY, hours_ago=2)
    desk.ledger.delivers(500, THURSDAY, hours_ago=1)
    desk.ledger.hears(500)
    (request,) = desk.tick().run_requests or []
    assert request.partition_key == OTHER_KEY
    assert request.asset_selection == [dg.AssetKey("match_status")]


def test_many_reports_of_a_day_are_one_run(desk: Desk) -> None:
    for _ in range(30):
        desk.ledger.delivers(1000, WEDNESDAY)
        desk.ledger.hears(1000)
    assert desk.asked() == [KEY]


def test_asking_again_is_asking_for_the_same_run(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    keys = {request.run_key for _ in range(3) for request in desk.tick().run_requests or []}
    assert len(keys) == 1


def test_work_in_flight_is_not_asked_for_again(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.runs(dg.DagsterRunStatus.STARTED)
    assert "in flight" in desk.why()


def test_an_upload_in_flight_computes_the_status_itself(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.runs(dg.DagsterRunStatus.STARTED, ours=False, job="daily_upload")
    assert "in flight" in desk.why()


def test_a_run_in_flight_for_something_else_is_no_reason_to_wait(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.runs(dg.DagsterRunStatus.STARTED, key=OTHER_KEY)
    desk.runs(dg.DagsterRunStatus.STARTED, asset="customer_list")
    assert desk.asked() == [KEY]


def test_a_run_that_was_created_and_never_launched_is_asked_for_by_its_key(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    before = [request.run_key for request in desk.tick().run_requests or []]
    desk.runs(dg.DagsterRunStatus.NOT_STARTED)
    assert [request.run_key for request in desk.tick().run_requests or []] == before


def test_a_failed_run_is_tried_again_later_under_another_key(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    (first,) = desk.tick().run_requests or []
    desk.runs(dg.DagsterRunStatus.FAILURE)
    assert "failed 1 times; tried again at" in desk.why()
    desk.ages(wait_after(1))
    (second,) = desk.tick().run_requests or []
    assert first.run_key != second.run_key
    assert str(second.run_key).endswith("attempt-2")


def test_the_wait_doubles() -> None:
    assert [wait_after(failures).total_seconds() for failures in range(1, 8)] == [
        *(30, 60, 120, 240, 480, 480, 480)
    ]


def test_what_fails_again_and_again_is_set_aside_and_shown(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    failed_until_set_aside(desk.instance, "match_status", KEY)
    desk.ages(timedelta(days=1))
    assert f"match_status of {KEY} is set aside after 5 failed runs" in desk.why()


def test_once_made_to_work_by_hand_it_is_asked_for_again(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    failed_until_set_aside(desk.instance, "match_status", KEY)
    desk.ledger.refreshes(WEDNESDAY)
    desk.ledger.hears(7)
    (request, _) = desk.tick().run_requests or []
    assert request.partition_key == KEY
    assert str(request.run_key).endswith("attempt-1")


def test_what_was_set_aside_is_asked_for_again_by_a_newer_report(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    failed_until_set_aside(desk.instance, "match_status", KEY)
    desk.ledger.hears(1000)
    assert "failed 5 times; tried again at" in desk.why()
    desk.ages(wait_after(MAX_ATTEMPTS))
    (request,) = desk.tick().run_requests or []
    assert str(request.run_key).endswith("attempt-6")


def test_every_newer_report_is_tried_under_a_key_of_its_own(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    for _ in range(MAX_ATTEMPTS + 2):
        desk.runs(dg.DagsterRunStatus.FAILURE)
    desk.ages(timedelta(hours=1))
    desk.ledger.hears(1000)
    (request,) = desk.tick().run_requests or []
    assert str(request.run_key).endswith(f"attempt-{MAX_ATTEMPTS + 3}")


def test_a_report_from_a_clock_before_ours_does_not_hide_the_failures(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.ledger.execute("update mm.webhook_event set received_at = now() + interval '1 hour'")
    failed_until_set_aside(desk.instance, "match_status", KEY)
    assert "is set aside" in desk.why()


def test_tokens_that_were_set_aside_are_asked_for_again_by_a_newer_status(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.ledger.refreshes(WEDNESDAY)
    failed_until_set_aside(desk.instance, "subscription_tokens", "acme")
    desk.ages(timedelta(hours=1))
    assert "subscription_tokens of acme is set aside" in desk.why()
    desk.ledger.execute("update mm.match_status set last_event_at = now()")
    assert desk.asked() == ["acme"]


def test_one_partition_set_aside_does_not_hold_up_the_others(desk: Desk) -> None:
    for day in (WEDNESDAY, THURSDAY):
        desk.ledger.delivers(1000, day, hours_ago=25)
    failed_until_set_aside(desk.instance, "match_status", KEY)
    assert desk.asked() == [OTHER_KEY]


def test_days_reported_by_the_run_of_another_day_are_next(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY, hours_ago=2)
    desk.ledger.delivers(500, THURSDAY, hours_ago=1)
    desk.ledger.hears(1000)
    desk.ledger.hears(500)
    desk.ledger.refreshes(WEDNESDAY)
    assert OTHER_KEY in desk.asked()
    desk.ledger.refreshes(THURSDAY)
    assert OTHER_KEY not in desk.asked()


def test_a_report_that_outran_our_acknowledgement_is_picked_up(desk: Desk) -> None:
    session = desk.ledger.delivers(1000, WEDNESDAY, status="sent")
    desk.ledger.hears(1000)
    desk.ledger.refreshes(WEDNESDAY)
    assert desk.asked() == []
    desk.ledger.acknowledges(session)
    assert desk.asked() == [KEY]


def test_the_deadline_itself_wakes_the_sensor_once_and_then_ever_more_seldom(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY, hours_ago=25)
    assert desk.asked() == [KEY]
    desk.ledger.refreshes(WEDNESDAY)
    assert desk.asked() == []
    desk.ledger.execute("update mm.match_status set as_of = as_of - interval '61 minutes'")
    assert desk.asked() == [KEY]
    desk.ledger.execute("update mm.upload_batch set acknowledged_at = now() - interval '48 hours'")
    desk.ledger.execute("update mm.match_status set as_of = now() - interval '11 hours'")
    assert desk.asked() == []


def test_a_batch_within_its_deadline_is_left_in_peace(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY, hours_ago=23)
    assert desk.asked() == []


def test_reports_of_an_audience_that_is_not_configured_are_kept_and_told(desk: Desk) -> None:
    desk.ledger.hears(1000, custom_audience_id="777")
    assert "1 reports are kept of Custom Audiences that mm.yaml does not have" in desk.why()
    assert desk.ledger.pending() == 1


def test_reports_about_an_audience_without_uploads_are_told(desk: Desk) -> None:
    desk.ledger.hears(1000)
    assert "reports about acme_newsletter wait: nothing was uploaded" in desk.why()


def test_a_day_before_the_start_date_is_told_and_not_fatal(desk: Desk) -> None:
    desk.ledger.delivers(1000, MONDAY)
    desk.ledger.hears(1000)
    assert f"acme_newsletter|{MONDAY} is no partition any more" in desk.why()


def test_more_than_a_tick_may_ask_for_is_left_to_the_next(desk: Desk) -> None:
    work = [Work("match_status", f"partition {number}", None) for number in range(RUNS_A_TICK + 5)]
    asked = ask(desk.instance, work, is_served_by=lambda run, work: False)
    assert len(asked.requests) == RUNS_A_TICK
    assert asked.notes == [f"more than {RUNS_A_TICK} are due: the rest is for the next ticks"]


def test_a_newer_status_asks_for_the_pages_tokens(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.ledger.refreshes(WEDNESDAY)
    (request,) = desk.tick().run_requests or []
    assert request.partition_key == "acme"
    assert request.asset_selection == [dg.AssetKey("subscription_tokens")]


def test_a_pull_in_flight_by_the_schedule_is_enough(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.ledger.refreshes(WEDNESDAY)
    desk.runs(dg.DagsterRunStatus.STARTED, key="acme", ours=False, job=token_refresh.name)
    assert desk.asked() == []


def test_tokens_are_pulled_at_most_every_15_minutes(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.ledger.refreshes(WEDNESDAY)
    desk.pulled(minutes_ago=14)
    desk.ledger.execute("update mm.match_status set last_event_at = now() - interval '1 minute'")
    assert desk.asked() == []
    desk.ledger.execute("update mm.token_pull set started_at = now() - interval '16 minutes'")
    assert desk.asked() == ["acme"]


def test_tokens_that_the_last_pull_saw_are_not_pulled_again(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.ledger.refreshes(WEDNESDAY)
    desk.ledger.execute("update mm.match_status set last_event_at = now() - interval '1 hour'")
    desk.pulled(minutes_ago=30)
    assert desk.asked() == []


def test_a_pull_that_broke_off_is_no_pull(desk: Desk) -> None:
    desk.ledger.delivers(1000, WEDNESDAY)
    desk.ledger.hears(1000)
    desk.ledger.refreshes(WEDNESDAY)
    desk.pulled(minutes_ago=0, finished=False)
    assert desk.asked() == ["acme"]


# Dagster names its own tags of multi-partition keys so.
@pytest.mark.filterwarnings("ignore:Non-compliant tag keys:DeprecationWarning")
def test_dagster_accepts_what_is_asked_for(desk: Desk, database_url: str) -> None:
    desk.ledger.delivers(1000, THURSDAY)
    desk.ledger.hears(1000)
    desk.ledger.refreshes(THURSDAY)
    desk.ledger.delivers(500, WEDNESDAY)
    desk.ledger.hears(500)
    with dg.build_sensor_context(
        instance=desk.instance,
        repository_def=defs.get_repository_def(),
        resources={"database": DatabaseResource(url=database_url)},
    ) as context:
        requests = upload_status_sensor.evaluate_tick(context).run_requests
    assert {(r.partition_key, *(r.asset_selection or [])) for r in requests or []} == {
        (KEY, dg.AssetKey("match_status")),
        ("acme", dg.AssetKey("subscription_tokens")),
    }
