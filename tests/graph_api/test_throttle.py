"""The usage headers, the pauses they ask for, and the waits after refusals."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.graph_api.throttle import (
    LONGEST_PAUSE,
    PROBE_SPACING,
    SHORTEST_PAUSE,
    MemoryThrottle,
    Quota,
    ThrottleState,
    Usage,
    accepted,
    assumed_pause,
    observed,
    parse_usage,
    refused,
    reserve,
    spacing_at,
)
from tests.graph_api.scripted import Time

USERS, LISTING = "1/users", "1/notification_message_tokens"
LONG = 1e9


def headers(**documents: object) -> dict[str, str]:
    return {name.replace("_", "-"): json.dumps(value) for name, value in documents.items()}


def test_each_header_is_read_in_its_own_unit() -> None:
    assert parse_usage(
        headers(x_app_usage={"call_count": 28, "total_time": 25, "total_cputime": 30})
    ) == (Usage(30, 0, Quota.APPLICATION),)
    # Seconds.
    assert parse_usage(
        headers(x_ad_account_usage={"acc_id_util_pct": 97.67, "reset_time_duration": 100})
    ) == (Usage(97.67, 100, Quota.AD_ACCOUNT),)
    # Minutes.
    row = {"type": "custom_audience", "call_count": 100, "estimated_time_to_regain_access": 19}
    assert parse_usage(headers(x_business_use_case_usage={"1": [row]})) == (
        Usage(100, 1140, Quota.CUSTOM_AUDIENCE),
    )


def test_each_quota_has_its_fullest_reading() -> None:
    usages = parse_usage(
        headers(
            x_app_usage={"call_count": 10},
            x_ad_account_usage={"acc_id_util_pct": 20.5, "reset_time_duration": 3600},
            x_business_use_case_usage={
                "1": [{"type": "ads_management", "call_count": 5}, {"type": "messenger"}],
                "2": [{"type": "custom_audience", "call_count": 1, "total_time": 80}],
                "3": [{"type": "whatsapp", "call_count": 7}],
            },
        )
    )
    assert {usage.quota: usage.percent for usage in usages} == {
        Quota.APPLICATION: 10,
        Quota.AD_ACCOUNT: 20.5,
        Quota.CUSTOM_AUDIENCE: 80,
        Quota.PAGE: 0,
        None: 7,
    }


@pytest.mark.parametrize(
    "raw", ["", "{}", "[]", "null", "<html>", '{"call_count": "many"}', '{"call_count": -1}']
)
def test_headers_without_meaning_do_no_harm(raw: str) -> None:
    usages = parse_usage({"x-app-usage": raw, "x-business-use-case-usage": raw})
    assert all(usage.percent == 0 for usage in usages)


@given(st.dictionaries(st.text(), st.recursive(st.integers() | st.text(), st.lists, max_leaves=5)))
def test_no_header_breaks_the_reading(document: dict[str, object]) -> None:
    raw = json.dumps(document)
    parse_usage({"x-app-usage": raw, "x-ad-account-usage": raw, "x-business-use-case-usage": raw})


def test_spacing_begins_at_three_quarters_and_grows_to_the_pause() -> None:
    assert [spacing_at(percent) for percent in (0, 74.9, 75, 80, 85, 95, 100)] == [
        *(0, 0, 0, 2.5, 5, 10, 10)
    ]


def test_a_pause_lasts_as_long_as_meta_states() -> None:
    assert observed(ThrottleState(), Usage(95, 300), 1000).next_call_at == 1300


def test_a_pause_of_unknown_length_grows_so_that_the_last_calls_last_an_hour() -> None:
    assert observed(ThrottleState(), Usage(95), 1000).next_call_at == 1060
    assert observed(ThrottleState(), Usage(97), 1000).next_call_at == 1240
    assert sum(assumed_pause(percent) for percent in range(95, 101)) >= 3600


def test_an_answer_to_an_earlier_call_does_not_end_a_pause() -> None:
    paused = observed(ThrottleState(), Usage(100, 600), 1000)
    late = observed(paused, Usage(40), 1001)
    assert (late.next_call_at, late.paused_until) == (1600, 1600)
    assert late.percent == 40


def memory(usage: Usage | None = None) -> tuple[MemoryThrottle, Time]:
    time = Time()
    throttle = MemoryThrottle(lambda: time.now)
    if usage is not None:
        throttle.observed([usage])
    return throttle, time


def test_callers_are_spaced_out_however_many_come_at_once() -> None:
    throttle, _ = memory(Usage(85))
    assert [throttle.before(USERS, LONG) for _ in range(4)] == [0, 5, 10, 15]


def test_a_call_that_is_not_waited_for_is_not_reserved() -> None:
    throttle, time = memory(Usage(85))
    assert [throttle.before(USERS, 12) for _ in range(6)] == [0, 5, 10, 15, 15, 15]
    time.sleep(15)
    assert throttle.before(USERS, 12) == 0


def test_a_pause_that_begins_while_a_call_waits_keeps_it_back() -> None:
    throttle, time = memory(Usage(85))
    assert [throttle.before(USERS, LONG) for _ in range(2)] == [0, 5]
    throttle.observed([Usage(95, 30)])
    time.sleep(5)
    assert throttle.recheck_after_wait(USERS, LONG) == 25
    time.sleep(25)
    assert throttle.recheck_after_wait(USERS, LONG) == 0


def test_a_reserved_call_is_not_reserved_again_without_a_pause() -> None:
    throttle, time = memory(Usage(85))
    waits = [throttle.before(USERS, LONG) for _ in range(4)]
    time.sleep(waits[1])
    assert throttle.recheck_after_wait(USERS, LONG) == 0


def test_a_refused_token_listing_does_not_keep_other_calls_of_the_page_back() -> None:
    throttle, _ = memory()
    wait = throttle.refused(Quota.TOKEN_LISTING, [], 60)
    assert throttle.before("1/messaging_customer_base/unsubscribe", LONG) == 0
    assert throttle.before(LISTING, LONG) == wait


@pytest.mark.parametrize("quota", [quota for quota in Quota if quota is not Quota.TOKEN_LISTING])
def test_every_other_quota_keeps_every_call_back(quota: Quota) -> None:
    throttle, _ = memory()
    wait = throttle.refused(quota, [], 60)
    assert throttle.before(USERS, 0) == throttle.before(LISTING, 0) == wait


def test_a_refusal_waits_at_least_as_long_as_its_headers_alone_would() -> None:
    throttle, _ = memory()
    # 100 % without a time: the headers alone mean 32 minutes.
    assert throttle.refused(Quota.CUSTOM_AUDIENCE, [Usage(100, 0, Quota.CUSTOM_AUDIENCE)], 60) == (
        assumed_pause(100)
    )
    throttle, _ = memory()
    assert throttle.refused(Quota.CUSTOM_AUDIENCE, [Usage(100, 7000, Quota.AD_ACCOUNT)], 60) == 7000


def test_refusals_in_a_row_wait_longer_each_time_up_to_an_hour() -> None:
    throttle, time = memory()
    waits = []
    for _ in range(8):
        waits.append(throttle.refused(Quota.AD_ACCOUNT, [], 60))
        time.sleep(waits[-1])
        assert throttle.before(USERS, 0) == 0
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_an_answer_after_the_pause_ends_the_row_and_one_before_does_not() -> None:
    throttle, time = memory()
    throttle.refused(Quota.AD_ACCOUNT, [], 60)
    throttle.succeeded(USERS, [])
    time.sleep(60)
    assert throttle.refused(Quota.AD_ACCOUNT, [], 60) == 120
    time.sleep(120)
    throttle.succeeded(USERS, [])
    assert throttle.before(USERS, 0) == 0
    assert throttle.refused(Quota.AD_ACCOUNT, [], 60) == 60


def test_a_refusal_older_than_metas_counters_does_not_count() -> None:
    throttle, time = memory()
    throttle.refused(Quota.AD_ACCOUNT, [], 60)
    time.sleep(60 + LONGEST_PAUSE)
    assert throttle.refused(Quota.AD_ACCOUNT, [], 60) == 60


def test_a_call_in_flight_when_the_pause_begins_does_not_lengthen_the_row() -> None:
    throttle, time = memory()
    throttle.refused(Quota.AD_ACCOUNT, [], 60)
    time.sleep(1)
    throttle.refused(Quota.AD_ACCOUNT, [], 60)
    time.sleep(60)
    assert throttle.refused(Quota.AD_ACCOUNT, [], 60) == 120


def test_after_a_refusal_one_call_probes_and_the_others_wait_for_its_answer() -> None:
    throttle, time = memory()
    time.sleep(throttle.refused(Quota.AD_ACCOUNT, [], 60))
    assert throttle.before(USERS, 30) == 0
    assert throttle.before(USERS, 30) == PROBE_SPACING
    throttle.succeeded(USERS, [Usage(10, 0, Quota.AD_ACCOUNT)])
    assert [throttle.before(USERS, 30) for _ in range(2)] == [10, 10]


@given(
    st.lists(
        st.tuples(st.floats(0, 120), st.floats(0, 4000), st.floats(0, 100), st.booleans()),
        max_size=30,
    )
)
def test_no_call_is_made_within_a_pause(
    history: list[tuple[float, float, float, bool]],
) -> None:
    state, now, paused_until = ThrottleState(), 1000.0, 0.0
    for percent, regain, passed, calls in history:
        now += passed
        if calls:
            taken, wait = reserve({Quota.AD_ACCOUNT: state}, now, longest_wait=LONG)
            state = taken[Quota.AD_ACCOUNT]
            assert wait >= 0
            assert now + wait >= paused_until - 1e-6
        else:
            state = observed(state, Usage(percent, regain), now)
            if percent >= 95:
                paused_until = max(paused_until, now + (regain or assumed_pause(percent)))


@given(st.lists(st.tuples(st.sampled_from("rsa"), st.floats(0, 5000), st.floats(0, 5000))))
def test_a_wait_after_a_refusal_is_never_shortened(
    history: list[tuple[str, float, float]],
) -> None:
    state, now, stated_until = ThrottleState(), 1000.0, 0.0
    for event, passed, at_least in history:
        now += passed
        if event == "r":
            state, wait = refused(state, now, at_least=at_least)
            assert wait >= max(SHORTEST_PAUSE, at_least) or now < stated_until
            stated_until = max(stated_until, now + wait)
        elif event == "s":
            state = observed(state, Usage(at_least / 50), now)
        else:
            state = accepted(state, now)
        if now < stated_until:
            assert state.next_call_at >= stated_until - 1e-6
