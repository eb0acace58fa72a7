"""An ad account's quota and a refused token are known to every run of it."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mm_pipelines import shared_throttle
from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.graph_api.throttle import Usage
from mm_pipelines.shared_throttle import SharedThrottle
from mm_pipelines.warehouse.database import Database
from tests.delivery import uploading
from tests.delivery.desk import SPEC, TOKEN, Desk, people

ACCOUNT = f"ad_account:{SPEC.ad_account_id}"
NOON = 1_795_262_400.0


def test_a_pause_that_one_run_was_told_keeps_the_others_back(database: Database) -> None:
    told, other, elsewhere = (
        SharedThrottle(database, account, TOKEN, now=lambda: NOON)
        for account in (ACCOUNT, ACCOUNT, "ad_account:2")
    )
    told.after(Usage(percent=96.0, regain_seconds=300.0))
    assert other.before() == 300.0
    assert elsewhere.before() == 0.0


def test_runs_take_turns_from_three_quarters_of_the_quota_on(database: Database) -> None:
    one, two = (SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: NOON) for _ in range(2))
    one.after(Usage(percent=85.0))
    waits = [shared.before() for shared in (one, two, one, two)]
    assert waits == [0.0, 5.0, 10.0, 15.0]
    assert two.waiting.seconds_waited == 20.0


def test_a_pause_that_another_run_was_told_reaches_those_who_queue(database: Database) -> None:
    clock = [NOON]
    told, other = (SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: clock[0]) for _ in range(2))
    told.after(Usage(percent=85.0))
    assert [other.before(), other.before()] == [0.0, 5.0]
    told.after(Usage(percent=95.0, regain_seconds=30.0))
    clock[0] += 5.0
    assert other.after_waiting() == 25.0
    clock[0] += 25.0
    assert other.after_waiting() == 0.0
    assert other.waiting.seconds_waited == 30.0


def test_below_three_quarters_nobody_waits(database: Database) -> None:
    shared = SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: NOON)
    shared.after(Usage(percent=85.0))
    shared.after(Usage(percent=20.0))
    shared.before()
    assert shared.before() == 0.0
    assert shared.waiting.highest_usage_percent == 85.0


def test_a_run_sees_what_another_was_told_an_eighth_of_a_second_later(database: Database) -> None:
    clock = [NOON]
    told, other = (SharedThrottle(database, ACCOUNT, TOKEN, now=lambda: clock[0]) for _ in range(2))
    assert other.before() == told.before() == 0.0
    told.after(Usage(percent=96.0, regain_seconds=300.0))
    assert told.before() == 300.0
    clock[0] += 0.125
    assert other.before() > 299.0


def refuse(shared: SharedThrottle) -> None:
    with pytest.raises(TokenError), shared.remembering_refusals():
        raise TokenError("expired", code=190, subcode=463, status=401)


def test_a_token_that_meta_refused_stops_the_other_runs_before_they_call(
    database: Database,
) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    with pytest.raises(TokenError, match="refused this access token in another run") as stopped:
        SharedThrottle(database, ACCOUNT, TOKEN).before()
    assert "Make a new access token" in str(stopped.value)
    assert TOKEN not in str(stopped.value)


def test_another_token_is_tried_at_once(database: Database) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    assert SharedThrottle(database, ACCOUNT, "EAAanother").before() == 0.0


def test_the_same_token_is_tried_again_after_a_while(database: Database) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    with database.transaction() as connection:
        connection.execute(
            text("update mm.throttle set refused_at = refused_at - cast(:age as interval)"),
            {"age": timedelta(minutes=11)},
        )
    assert SharedThrottle(database, ACCOUNT, TOKEN).before() == 0.0


def test_a_refusal_that_was_only_handed_on_does_not_renew_itself(database: Database) -> None:
    refuse(SharedThrottle(database, ACCOUNT, TOKEN))
    with database.transaction() as connection:
        first = connection.scalar(text("select refused_at from mm.throttle"))
    shared = SharedThrottle(database, ACCOUNT, TOKEN)
    with pytest.raises(TokenError), shared.remembering_refusals():
        shared.before()
    with database.transaction() as connection:
        assert connection.scalar(text("select refused_at from mm.throttle")) == first


def test_the_token_itself_is_written_nowhere(database: Database) -> None:
    shared = SharedThrottle(database, ACCOUNT, TOKEN)
    refuse(shared)
    assert TOKEN not in repr(shared)
    with database.transaction() as connection:
        row = connection.execute(text("select * from mm.throttle")).one()
    assert TOKEN not in str(row)


def test_a_refused_token_stops_an_upload_before_it_calls(desk: Desk) -> None:
    desk.publish(people(200))
    refuse(SharedThrottle(desk.database, ACCOUNT, TOKEN))
    shared = SharedThrottle(desk.database, ACCOUNT, TOKEN)
    with pytest.raises(TokenError):
        desk.upload(client=desk.client(throttle=shared))
    assert desk.sandbox.get("calls")["calls"] == []


def run_together(desk: Desk, storage_url: str, people_each: int) -> None:
    """Upload two audiences of one ad account at once; no call may be throttled."""
    for audience in ("left", "right"):
        desk.publish(people(people_each), audience=audience)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.delivery.uploading"])
    arguments = (desk.database.url, storage_url, desk.sandbox.url)
    runs = [
        processes.Process(target=uploading.run, args=(*arguments, audience, 1000, 1))
        for audience in ("left", "right")
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    calls = desk.sandbox.get("calls")["calls"]
    assert {call["status"] for call in calls} == {200}, "a call was throttled"
    assert desk.acknowledged_rows() == 2 * people_each


def limit(desk: Desk, calls: int, window_seconds: float) -> None:
    """Let the sandbox enforce a quota on the ad account."""
    desk.sandbox.post(
        "quotas",
        subject=f"act_{SPEC.ad_account_id}",
        calls=calls,
        window_seconds=window_seconds,
        block_seconds=30,
    )


def test_two_runs_on_one_ad_account_slow_down_together(desk: Desk, tmp_path: Path) -> None:
    # Together they make 32 calls, which is four fifths of what is allowed.
    limit(desk, calls=40, window_seconds=3600)
    run_together(desk, str(tmp_path / "storage"), 14_000)
    with desk.database.transaction() as connection:
        assert shared_throttle.find(connection, ACCOUNT).spacing_seconds > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_runs_that_need_more_than_the_quota_stay_below_it_together(
    desk: Desk, tmp_path: Path
) -> None:
    limit(desk, calls=100, window_seconds=60)
    run_together(desk, str(tmp_path / "storage"), 60_000)
