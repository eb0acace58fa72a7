"""Faults and throttling on order."""

import json

import httpx
import pytest

from tests.sandbox import meta
from tests.sandbox.meta import Meta, error_of, key, people

EDGE = f"act_{meta.ACCOUNT}/customaudiences"


def test_the_nth_call_fails_as_often_as_ordered(sandbox: Meta) -> None:
    sandbox.control(
        "POST",
        "faults",
        method="GET",
        path="act_*/customaudiences",
        nth=2,
        every=2,
        times=2,
        error={"code": 2, "is_transient": True, "status": 500, "subcode": 99},
    )
    statuses = [sandbox.call("GET", EDGE).status_code for _ in range(6)]
    (fault,) = sandbox.control("GET", "faults")

    assert statuses == [200, 500, 200, 500, 200, 200]
    assert (fault["seen"], fault["fired"]) == (6, 2)
    assert sandbox.control("DELETE", f"faults/{fault['id']}") == []


def test_an_ordered_error_is_a_whole_envelope(sandbox: Meta) -> None:
    sandbox.control("POST", "faults", error={"code": 190, "subcode": 463, "status": 401})
    answer = sandbox.call("GET", EDGE)

    assert answer.status_code == 401
    assert error_of(answer) == (190, 463)


def test_a_token_can_expire_after_so_many_calls_for_one_caller_alone(sandbox: Meta) -> None:
    error = {"code": 190, "subcode": 463}
    sandbox.control("POST", "faults", principal="system_user", nth=3, times=None, error=error)
    statuses = [sandbox.call("GET", EDGE).status_code for _ in range(4)]

    assert statuses == [200, 200, 400, 400]
    tokens = sandbox.call("GET", f"{meta.PAGE}/notification_message_tokens", meta.PAGE_TOKEN)
    assert tokens.status_code == 200


@pytest.mark.parametrize(("when", "applied"), [("before", 0), ("after", 3)])
def test_a_connection_can_be_cut_before_or_after_the_call_is_applied(
    sandbox: Meta, when: str, applied: int
) -> None:
    audience = sandbox.create_audience()
    sandbox.control("POST", "faults", method="POST", path="*/users", reset=when)
    with pytest.raises(httpx.TransportError):
        sandbox.upload(audience, people(3))
    assert len(sandbox.members(audience)) == applied

    assert sandbox.upload(audience, people(3)).json()["num_received"] == 3
    assert sandbox.members(audience) == {key(row) for row in people(3)}


def test_a_call_can_hang_until_the_caller_gives_up(sandbox: Meta) -> None:
    sandbox.control("POST", "faults", hang=True)
    with pytest.raises(httpx.ReadTimeout):
        sandbox.call("GET", EDGE, timeout=0.2)

    assert sandbox.call("GET", EDGE).status_code == 200


def test_an_answer_can_be_html_truncated_or_empty(sandbox: Meta) -> None:
    for body in ("html", "truncated", "empty"):
        sandbox.control("POST", "faults", body=body, headers={"x-extra": "1"})
        answer = sandbox.call("GET", EDGE)
        with pytest.raises(ValueError, match=r"."):
            json.loads(answer.content)
        assert answer.headers["x-extra"] == "1"


def test_a_fault_that_makes_no_sense_is_refused(sandbox: Meta) -> None:
    for rule in ({"nth": 0}, {"explode": True}, {"variants": {"colour": "red"}}, {"reset": "now"}):
        answer = sandbox.http.post(f"{sandbox.url}/_sandbox/faults", json=rule)
        assert answer.status_code == 422


def test_a_quota_shows_its_use_and_blocks_beyond_it(sandbox: Meta) -> None:
    account = f"act_{meta.ACCOUNT}"
    sandbox.control(
        "POST", "quotas", subject=account, calls=4, window_seconds=600, block_seconds=90
    )
    answers = [sandbox.call("GET", EDGE) for _ in range(5)]
    used = [
        json.loads(answer.headers["x-business-use-case-usage"])[meta.ACCOUNT][0]
        for answer in answers
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 400]
    assert [usage["call_count"] for usage in used] == [25, 50, 75, 100, 100]
    assert used[-1]["estimated_time_to_regain_access"] == 2
    assert error_of(answers[-1]) == (80003, 2446079)
    assert json.loads(answers[1].headers["x-ad-account-usage"])["acc_id_util_pct"] == 0
    sandbox.control("POST", "clock", advance_seconds=700)
    assert sandbox.call("GET", EDGE).status_code == 200


def test_the_token_listing_has_a_throttle_of_its_own(sandbox: Meta) -> None:
    sandbox.control("POST", "quotas", subject=meta.PAGE, calls=1)
    path = f"{meta.PAGE}/notification_message_tokens"
    codes = [sandbox.call("GET", path, meta.PAGE_TOKEN).status_code for _ in range(2)]

    assert codes == [200, 400]
    assert error_of(sandbox.call("GET", path, meta.PAGE_TOKEN))[0] == 2300080


@pytest.mark.parametrize(
    ("subject", "code", "kind"),
    [
        ("app", 4, "application"),
        (f"act_{meta.ACCOUNT}", 17, "ad_account"),
        (f"act_{meta.ACCOUNT}", 80004, "ad_account"),
        (f"act_{meta.ACCOUNT}", 80003, "custom_audience"),
        (meta.PAGE, 32, "page"),
        (meta.PAGE, 80001, "page"),
        (meta.PAGE, 80006, "page"),
        (meta.PAGE, 2300080, "token_listing"),
    ],
)
def test_each_kind_of_quota_refuses_with_its_own_code_until_its_block_ends(
    sandbox: Meta, subject: str, code: int, kind: str
) -> None:
    sandbox.control("POST", "clock", frozen=True)
    sandbox.control(
        "POST", "quotas", subject=subject, code=code, blocked_for_seconds=3600, block_seconds=0
    )
    of_page = subject == meta.PAGE
    path = f"{meta.PAGE}/notification_message_tokens" if of_page else EDGE
    token = meta.PAGE_TOKEN if of_page else meta.SYSTEM_TOKEN
    refused = [error_of(sandbox.call("GET", path, token))[0] for _ in range(2)]
    sandbox.control("POST", "clock", advance_seconds=3600)
    permitted = sandbox.call("GET", path, token)
    (counted,) = sandbox.control("GET", "throttled")

    assert refused == [code, code]
    assert permitted.status_code == 200
    assert (counted["kind"], counted["code"], counted["refusals"]) == (kind, code, 2)
    assert counted["subject"] == (meta.PAGE if of_page else f"act_{meta.ACCOUNT}")


def test_only_the_header_of_the_refusing_quota_is_full(sandbox: Meta) -> None:
    sandbox.control("POST", "quotas", subject="app", blocked_for_seconds=600)
    answer = sandbox.call("GET", EDGE)
    use_case = json.loads(answer.headers["x-business-use-case-usage"])[meta.ACCOUNT][0]

    assert json.loads(answer.headers["x-app-usage"])["call_count"] == 100
    assert use_case["call_count"] == 0
    assert json.loads(answer.headers["x-ad-account-usage"])["acc_id_util_pct"] == 0


def test_the_headers_of_a_refusal_can_lack_the_wait(sandbox: Meta) -> None:
    account = f"act_{meta.ACCOUNT}"
    sandbox.control("POST", "quotas", subject=account, blocked_for_seconds=600, tell_wait=False)
    usage = json.loads(sandbox.call("GET", EDGE).headers["x-business-use-case-usage"])

    assert usage[meta.ACCOUNT][0]["estimated_time_to_regain_access"] == 0
    assert usage[meta.ACCOUNT][0]["call_count"] == 100


def test_two_kinds_of_quota_of_one_account_are_counted_apart(sandbox: Meta) -> None:
    sandbox.control("POST", "quotas", subject=meta.PAGE, kind="token_listing", calls=1)
    sandbox.control("POST", "quotas", subject=meta.PAGE, kind="page", code=80006, calls=3)
    listing = f"{meta.PAGE}/notification_message_tokens"
    codes = []
    for path in (listing, listing, meta.PAGE, meta.PAGE):
        answer = sandbox.call("GET", path, meta.PAGE_TOKEN)
        codes.append(answer.json().get("error", {}).get("code"))

    assert codes == [None, 2300080, None, 80006]


def test_a_frozen_clock_changes_only_when_advanced_or_released(sandbox: Meta) -> None:
    frozen = sandbox.control("POST", "clock", frozen=True)["now"]
    assert sandbox.control("GET", "clock")["now"] == frozen
    assert sandbox.control("POST", "clock", advance_seconds=60)["now"] == frozen + 60
    released = sandbox.control("POST", "clock", frozen=False)["now"]
    assert released == pytest.approx(frozen + 60, abs=1)
    assert sandbox.control("GET", "clock")["now"] > released
