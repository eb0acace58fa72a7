"""All runs of an ad account share its quotas and a refused token."""

import multiprocessing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import ThrottledError, TokenError
from mm_pipelines.graph_api.throttle import Quota, Usage
from mm_pipelines.shared_throttle import SharedThrottle
from mm_pipelines.warehouse.database import Database
from tests.delivery import uploading
from tests.delivery.sandbox_delivery import SPEC, TOKEN, SandboxDelivery, people

ACCOUNT = f"ad_account:{SPEC.ad_account_id}"
NOON = 1_795_262_400.0
PATH = "1/users"
LONG = 1e9


def test_a_pause_that_one_run_sees_keeps_the_others_back(database: Database) -> None:
    one, other, elsewhere = (
        SharedThrottle(database, account, TOKEN, now=lambda: NOON)
        for account in (ACCOUNT, ACCOUNT, "ad_account:2")
    )
    one.observed([Usage(percent=96.0, regain_seconds=300.0)])
    assert other.before(PATH, LONG) == 300.0
    assert elsewhere.before(PATH, LONG) == 0.0


def test_a_refusal_of_the_application_keeps_every_account_and_page_back(
    database: Database,
) -> None:
    refused, other, page = (
        SharedThrottle(database, account, TOKEN, now=lambda: NOON)
        for account in (ACCOUNT, "ad_account:2", "page:3")
    )
    assert refused.refused(Quota.APPLICATION, [], 60) == 60.0
    assert [throttle.before(PATH, LONG) for throttle in (other, page)] == [60.0, 120.0]


def test_a_refused_token_listing_keeps_back_listings_of_that_page_alone(
    database: Database,
) -> None:
    page, other = (
        SharedThrottle(database, account, TOKEN, now=lambda: NOON)
        for account in ("page:3", "page:4")
    )
    page.refused(Quota.TOKEN_LISTING, [], 60)
    assert page.before("3/messaging_customer_base/unsubscribe", 0) == 0.0
    assert page.before("3/notification_message_tokens", 0) == 60.0
    assert other.before("4/notification_message_tokens", 0) == 0.0


def test_runs_take_turns_from_three_quarters_of_the_quota_on(database: Database) -> None:
    one, two = (SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: NOON) for _ in range(2))
    one.observed([Usage(percent=85.0)])
    waits = [shared.before(PATH, LONG) for shared in (one, two, one, two)]
    assert waits == [0.0, 5.0, 10.0, 15.0]
    assert two.waiting.seconds_waited == 20.0
    assert [one.before(PATH, 5.0), two.before(PATH, LONG)] == [20.0, 20.0]
    assert one.waiting.seconds_waited == 10.0


def test_a_pause_that_another_run_sees_reaches_waiting_callers(database: Database) -> None:
    clock = [NOON]
    one, other = (SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: clock[0]) for _ in range(2))
    one.observed([Usage(percent=85.0)])
    assert [other.before(PATH, LONG), other.before(PATH, LONG)] == [0.0, 5.0]
    one.observed([Usage(percent=95.0, regain_seconds=30.0)])
    clock[0] += 5.0
    assert other.recheck_after_wait(PATH, LONG) == 25.0
    clock[0] += 25.0
    assert other.recheck_after_wait(PATH, LONG) == 0.0
    assert other.waiting.seconds_waited == 30.0


def test_below_three_quarters_no_call_waits(database: Database) -> None:
    shared = SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: NOON)
    shared.observed([Usage(percent=85.0)])
    shared.succeeded(PATH, [Usage(percent=20.0)])
    shared.before(PATH, LONG)
    assert shared.before(PATH, LONG) == 0.0
    assert shared.waiting.highest_usage_percent == 85.0


def test_a_run_sees_a_pause_of_another_run_an_eighth_of_a_second_later(database: Database) -> None:
    clock = [NOON]
    one, other = (SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: clock[0]) for _ in range(2))
    assert other.before(PATH, LONG) == one.before(PATH, LONG) == 0.0
    one.observed([Usage(percent=96.0, regain_seconds=300.0)])
    assert one.before(PATH, LONG) == 300.0
    clock[0] += 0.125
    assert other.before(PATH, LONG) > 299.0


def test_refusals_in_a_row_are_counted_over_all_runs(database: Database) -> None:
    clock = [NOON]
    waits = []
    for _ in range(4):
        run = SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: clock[0])
        assert run.before(PATH, 0) == 0.0
        waits.append(run.refused(Quota.CUSTOM_AUDIENCE, [], 60))
        clock[0] += waits[-1]
    assert waits == [60.0, 120.0, 240.0, 480.0]
    last = SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: clock[0])
    last.before(PATH, 0)
    last.succeeded(PATH, [])
    assert last.states()[Quota.CUSTOM_AUDIENCE].refusals == 0


def test_after_a_refusal_one_run_probes_and_the_others_wait_for_its_answer(
    database: Database,
) -> None:
    clock = [NOON]
    runs = [SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: clock[0]) for _ in range(4)]
    clock[0] += runs[0].refused(Quota.CUSTOM_AUDIENCE, [], 60)
    assert [run.before(PATH, 30) for run in runs] == [0.0, 60.0, 60.0, 60.0]
    runs[0].succeeded(PATH, [Usage(10.0, 0.0, Quota.CUSTOM_AUDIENCE)])
    clock[0] += 10.0
    assert [run.before(PATH, 30) for run in runs] == [0.0] * 4


@dataclass
class Throttling:
    """A Graph API that refuses every call until a time; a clock that sleeping moves."""

    now: float = NOON
    refuses_until: float = NOON + 4 * 3600
    refused_at: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def answer(self, request: httpx.Request) -> httpx.Response:
        del request
        self.now += 0.5
        if self.now >= self.refuses_until:
            return httpx.Response(200, json={"id": "1"})
        self.refused_at.append(self.now)
        return httpx.Response(400, json={"error": {"message": "Too many calls", "code": 80003}})


@given(pauses=st.lists(st.floats(0, 400), min_size=60, max_size=60))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_refusals_are_never_closer_than_the_stated_wait_over_all_runs(
    database: Database, pauses: list[float]
) -> None:
    with database.transaction() as connection:
        connection.execute(text("truncate mm.throttle"))
    meta = Throttling()
    stated: list[tuple[float, float]] = []
    for pause in pauses:
        # Each run begins anew, as a process does, and runs begin at any time.
        meta.now += pause
        throttle = SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: meta.now)
        before = len(meta.refused_at)
        with GraphApiClient(
            TOKEN, throttle=throttle, sleep=meta.sleep, transport=httpx.MockTransport(meta.answer)
        ) as client:
            try:
                client.get("1/users")
            except ThrottledError as error:
                if len(meta.refused_at) > before:
                    stated.append((meta.now, error.wait_seconds))
    for at, wait in stated:
        later = [refused for refused in meta.refused_at if refused > at]
        assert not later or later[0] >= at + wait - 1e-6
    assert max(wait for _, wait in stated) <= 3600


def refuse(shared: SharedThrottle) -> None:
    with pytest.raises(TokenError), shared.remembering_refusals():
        raise TokenError("expired", code=190, subcode=463, status=401)


def test_a_token_that_meta_refused_stops_the_other_runs_before_they_call(
    database: Database,
) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    with pytest.raises(TokenError, match="refused this access token in another run") as stopped:
        SharedThrottle(database, ACCOUNT, TOKEN).before(PATH, LONG)
    assert "Make a new access token" in str(stopped.value)
    assert TOKEN not in str(stopped.value)


def test_another_token_is_tried_at_once(database: Database) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    assert SharedThrottle(database, ACCOUNT, "EAAanother").before(PATH, LONG) == 0.0


def test_the_same_token_is_tried_again_after_a_while(database: Database) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    with database.transaction() as connection:
        connection.execute(
            text("update mm.throttle set refused_at = refused_at - cast(:age as interval)"),
            {"age": timedelta(minutes=11)},
        )
    assert SharedThrottle(database, ACCOUNT, TOKEN).before(PATH, LONG) == 0.0


def test_a_refusal_that_was_only_handed_on_does_not_renew_itself(database: Database) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    with database.transaction() as connection:
        first = connection.scalar(text("select refused_at from mm.throttle"))
    shared = SharedThrottle(database, ACCOUNT, TOKEN)
    with pytest.raises(TokenError), shared.remembering_refusals():
        shared.before(PATH, LONG)
    with database.transaction() as connection:
        assert connection.scalar(text("select refused_at from mm.throttle")) == first


def test_the_token_itself_is_written_nowhere(database: Database) -> None:
    shared = SharedThrottle(database, ACCOUNT, TOKEN)
    refuse(shared)
    assert TOKEN not in repr(shared)
    with database.transaction() as connection:
        row = connection.execute(text("select * from mm.throttle")).one()
    assert TOKEN not in str(row)


def test_a_refused_token_stops_an_upload_before_it_calls(delivery: SandboxDelivery) -> None:
    delivery.publish(people(200))
    refuse(SharedThrottle(delivery.database, ACCOUNT, TOKEN))
    shared = SharedThrottle(delivery.database, ACCOUNT, TOKEN)
    with pytest.raises(TokenError):
        delivery.upload(client=delivery.client(throttle=shared))
    assert delivery.sandbox.get("calls")["calls"] == []


def run_together(delivery: SandboxDelivery, storage_url: str, people_each: int) -> None:
    """Upload two audiences of one ad account at once; no call may be throttled."""
    for audience in ("left", "right"):
        delivery.publish(people(people_each), audience=audience)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.delivery.uploading"])
    arguments = (delivery.database.url, storage_url, delivery.sandbox.url)
    runs = [
        processes.Process(target=uploading.run, args=(*arguments, audience, 1000, 1))
        for audience in ("left", "right")
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    calls = delivery.sandbox.get("calls")["calls"]
    assert {call["status"] for call in calls} == {200}, "a call was throttled"
    assert delivery.acknowledged_rows() == 2 * people_each


def limit(delivery: SandboxDelivery, calls: int, window_seconds: float) -> None:
    """Let the sandbox enforce a quota on the ad account."""
    delivery.sandbox.post(
        "quotas",
        subject=f"act_{SPEC.ad_account_id}",
        calls=calls,
        window_seconds=window_seconds,
        block_seconds=30,
    )


def test_two_runs_on_one_ad_account_slow_down_together(
    delivery: SandboxDelivery, tmp_path: Path
) -> None:
    # Together they make 32 calls, which is four fifths of what is allowed.
    limit(delivery, calls=40, window_seconds=3600)
    run_together(delivery, str(tmp_path / "storage"), 14_000)
    with delivery.database.transaction() as connection:
        spacing = "select spacing_seconds from mm.throttle where account like 'custom_audience:%'"
        assert connection.scalar(text(spacing)) > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_runs_that_need_more_than_the_quota_stay_below_it_together(
    delivery: SandboxDelivery, tmp_path: Path
) -> None:
    limit(delivery, calls=100, window_seconds=60)
    run_together(delivery, str(tmp_path / "storage"), 60_000)
