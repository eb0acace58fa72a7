"""After any fault no person is lost or doubled, and the error is the right one."""

from typing import Any

import pytest
from sqlalchemy import text

from mm_pipelines.delivery.errors import RowsNotReceivedError, UploadRefusedError
from mm_pipelines.graph_api.errors import (
    AmbiguousOutcomeError,
    PermissionDeniedError,
    PolicyError,
    TermsNotAcceptedError,
    ThrottledError,
    TokenError,
    TransientError,
    VersionDeadError,
)
from tests.delivery.sandbox_delivery import TOKEN, SandboxDelivery, keys, people

CROWD = people(5000)
USERS = "*/users"


def uploaded_after(delivery: SandboxDelivery, **fault: Any) -> SandboxDelivery:
    """Upload while the third batch meets a fault, once or as often as it says."""
    delivery.publish(CROWD)
    delivery.sandbox.post("faults", path=USERS, nth=3, **fault)
    return delivery


PASSING: dict[str, dict[str, Any]] = {
    "a reset before it was applied": {"reset": "before"},
    "a reset after it was applied": {"reset": "after"},
    "an HTML page": {"body": "html", "status": 502},
    "an HTML page that says 200": {"body": "html", "status": 200},
    "an answer cut short": {"body": "truncated"},
    "an empty answer": {"body": "empty"},
    "an unknown error": {"error": {"code": 1, "status": 500}},
    "a temporary error": {"error": {"code": 2, "status": 503, "is_transient": True}},
    "an update in progress": {"error": {"code": 2650, "subcode": 1870145}},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_fault_that_passes_is_survived_within_the_run(
    delivery: SandboxDelivery, fault: dict[str, Any]
) -> None:
    uploaded_after(delivery, **fault).upload()

    assert delivery.sandbox.members() == keys(CROWD)
    batches = delivery.sandbox.batches()
    assert [batch["num_rows"] for batch in batches] == [1000] * 5
    assert len({batch["session_id"] for batch in batches}) == 1


LASTING: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "an expired token": ({"code": 190, "subcode": 463, "status": 401}, TokenError),
    "a session that ended": ({"code": 102, "status": 401}, TokenError),
    "a missing permission": ({"code": 294, "status": 403}, PermissionDeniedError),
    "terms": ({"code": 2663}, TermsNotAcceptedError),
    "terms by subcode": ({"code": 200, "subcode": 1870090}, TermsNotAcceptedError),
    "a policy block": ({"code": 368}, PolicyError),
    "the integrity flag": ({"code": 100, "subcode": 1713230}, PolicyError),
    "a dead version": ({"code": 2635}, VersionDeadError),
    "a wrong parameter": ({"code": 100}, UploadRefusedError),
    "a temporary error that lasts": ({"code": 2, "status": 503}, AmbiguousOutcomeError),
    "a delay that lasts": ({"code": 1200}, TransientError),
}


@pytest.mark.parametrize(("error", "kind"), LASTING.values(), ids=LASTING.keys())
def test_a_fault_that_lasts_stops_the_run_and_the_next_sends_only_the_rest(
    delivery: SandboxDelivery, error: dict[str, Any], kind: type[Exception]
) -> None:
    uploaded_after(delivery, error=error, times=None)
    with pytest.raises(kind) as stopped:
        delivery.upload()
    assert TOKEN not in str(stopped.value)
    delivery.sandbox.clear_faults()

    summary = delivery.upload()

    assert summary.rows == 3000
    assert delivery.sandbox.members() == keys(CROWD)
    assert [batch["times_received"] for batch in delivery.sandbox.batches()] == [1] * 5


def test_a_reset_that_lasts_leaves_a_batch_that_is_sent_again_unchanged(
    delivery: SandboxDelivery,
) -> None:
    uploaded_after(delivery, reset="after", times=None)
    with pytest.raises(AmbiguousOutcomeError):
        delivery.upload()
    delivery.sandbox.clear_faults()

    delivery.upload()

    assert delivery.sandbox.members() == keys(CROWD)
    batches = delivery.sandbox.batches()
    assert len(batches) == 5
    assert len({batch["session_id"] for batch in batches}) == 1
    assert delivery.acknowledged_rows() == 5000


def test_a_200_that_hides_a_failed_subscription_is_a_failure(delivery: SandboxDelivery) -> None:
    uploaded_after(delivery, variants={"messenger_error": True}, times=None)
    with pytest.raises(AmbiguousOutcomeError, match="Subscribers could not be created"):
        delivery.upload()
    assert delivery.acknowledged_rows() == 2000
    delivery.sandbox.clear_faults()

    delivery.upload()

    assert delivery.sandbox.members() == keys(CROWD)


def test_a_lost_batch_is_noticed_by_the_sessions_count_and_sent_again(
    delivery: SandboxDelivery,
) -> None:
    uploaded_after(delivery, variants={"batch_lost": True})
    with pytest.raises(RowsNotReceivedError, match=r"2,000 of the 3,000 rows"):
        delivery.upload()

    delivery.upload()

    assert delivery.sandbox.members() == keys(CROWD)
    assert delivery.acknowledged_rows() == 5000


def test_a_session_that_ended_at_meta_is_followed_by_a_new_one(delivery: SandboxDelivery) -> None:
    uploaded_after(delivery, error={"code": 2650, "subcode": 1870158})

    delivery.upload()

    assert delivery.sandbox.members() == keys(CROWD)
    assert len({batch["session_id"] for batch in delivery.sandbox.batches()}) == 2
    assert delivery.acknowledged_rows() == 5000


def test_a_rerun_after_the_sessions_window_continues_in_a_new_session(
    delivery: SandboxDelivery,
) -> None:
    uploaded_after(delivery, error={"code": 190, "status": 401}, times=None)
    with pytest.raises(TokenError):
        delivery.upload()
    delivery.sandbox.clear_faults()
    with delivery.database.transaction() as connection:
        connection.execute(
            text("update mm.upload_session set opened_at = opened_at - interval '2 hours'")
        )

    delivery.upload()

    assert delivery.sandbox.members() == keys(CROWD)
    sessions = [batch["session_id"] for batch in delivery.sandbox.batches()]
    assert [sessions.count(session) for session in dict.fromkeys(sessions)] == [2, 3]


def test_a_throttle_stops_the_run_with_the_wait_that_meta_states(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post(
        "quotas",
        subject="act_12348141984909088",
        calls=4,
        window_seconds=3600,
        block_seconds=600,
    )
    with pytest.raises(ThrottledError) as stopped:
        delivery.upload()
    assert stopped.value.wait_seconds >= 60
    assert 0 < delivery.acknowledged_rows() < 5000


def test_no_log_line_or_error_contains_personal_data(
    delivery: SandboxDelivery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    delivery.publish(CROWD, unhashed={17: "EMAIL"})
    delivery.sandbox.post("faults", path=USERS, nth=2, reset="after")
    delivery.sandbox.post("faults", path=USERS, nth=4, error={"code": 100}, times=None)

    with pytest.raises(UploadRefusedError) as stopped:
        delivery.upload()

    shown = "\n".join([*delivery.lines, caplog.text, str(stopped.value), repr(stopped.value)])
    values = {value for key in keys(CROWD) for value in key.split("|")}
    assert not [value for value in (*values, TOKEN, "plain17") if value in shown]
