import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.graph_api.throttle import (
    MemoryThrottle,
    ThrottleState,
    Usage,
    assumed_pause,
    observed,
    parse_usage,
    reserved,
    spacing_at,
)
from tests.graph_api.scripted import Time


def headers(**documents: object) -> dict[str, str]:
    return {name.replace("_", "-"): json.dumps(value) for name, value in documents.items()}


def test_each_header_is_read_in_its_own_unit() -> None:
    assert parse_usage(
        headers(x_app_usage={"call_count": 28, "total_time": 25, "total_cputime": 30})
    ) == Usage(30, 0, "app")
    # Seconds.
    assert parse_usage(
        headers(x_ad_account_usage={"acc_id_util_pct": 97.67, "reset_time_duration": 100})
    ) == Usage(97.67, 100, "ad_account")
    # Minutes.
    row = {"type": "custom_audience", "call_count": 100, "estimated_time_to_regain_access": 19}
    assert parse_usage(headers(x_business_use_case_usage={"1": [row]})) == Usage(
        100, 1140, "custom_audience"
    )


def test_the_fullest_quota_counts() -> None:
    assert parse_usage(
        headers(
            x_app_usage={"call_count": 10},
            x_ad_account_usage={"acc_id_util_pct": 20.5, "reset_time_duration": 3600},
            x_business_use_case_usage={
                "1": [{"type": "ads_management", "call_count": 5}],
                "2": [{"type": "custom_audience", "call_count": 1, "total_time": 80}],
            },
        )
    ) == Usage(80, 0, "custom_audience")


@pytest.mark.parametrize(
    "raw", ["", "{}", "[]", "null", "<html>", '{"call_count": "many"}', '{"call_count": -1}']
)
def test_headers_that_tell_nothing_do_no_harm(raw: str) -> None:
    usage = parse_usage({"x-app-usage": raw, "x-business-use-case-usage": raw})
    assert usage is None or usage.percent == 0


@given(st.dictionaries(st.text(), st.recursive(st.integers() | st.text(), st.lists, max_leaves=5)))
def test_no_header_breaks_the_reading(document: dict[str, object]) -> None:
    raw = json.dumps(document)
    parse_usage({"x-app-usage": raw, "x-ad-account-usage": raw, "x-business-use-case-usage": raw})


def test_spacing_begins_at_three_quarters_and_grows_to_the_pause() -> None:
    assert [spacing_at(percent) for percent in (0, 74.9, 75, 80, 85, 95, 100)] == [
        *(0, 0, 0, 2.5, 5, 10, 10)
    ]


def test_a_pause_lasts_as_long_as_meta_says() -> None:
    assert observed(ThrottleState(), Usage(95, 300), 1000).next_call_at == 1300


def test_a_pause_of_unknown_length_grows_so_that_the_last_calls_last_an_hour() -> None:
    assert observed(ThrottleState(), Usage(95), 1000).next_call_at == 1060
    assert observed(ThrottleState(), Usage(97), 1000).next_call_at == 1240
    assert sum(assumed_pause(percent) for percent in range(95, 101)) >= 3600


def test_an_answer_of_an_earlier_call_does_not_end_a_pause() -> None:
    paused = observed(ThrottleState(), Usage(100, 600), 1000)
    late = observed(paused, Usage(40), 1001)
    assert (late.next_call_at, late.paused_until) == (1600, 1600)
    assert late.percent == 40


def test_callers_are_spaced_out_however_many_come_at_once() -> None:
    time = Time()
    throttle = MemoryThrottle(lambda: time.now)
    throttle.after(Usage(85))
    assert [throttle.before() for _ in range(4)] == [0, 5, 10, 15]


def test_a_pause_that_begins_while_a_call_queues_keeps_it_back() -> None:
    time = Time()
    throttle = MemoryThrottle(lambda: time.now)
    throttle.after(Usage(85))
    assert [throttle.before() for _ in range(2)] == [0, 5]
    throttle.after(Usage(95, 30))
    time.sleep(5)
    assert throttle.after_waiting() == 25
    time.sleep(25)
    assert throttle.after_waiting() == 0


def test_a_queue_without_a_pause_is_not_joined_again() -> None:
    time = Time()
    throttle = MemoryThrottle(lambda: time.now)
    throttle.after(Usage(85))
    waits = [throttle.before() for _ in range(4)]
    time.sleep(waits[1])
    assert throttle.after_waiting() == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 120), st.floats(0, 4000), st.floats(0, 100), st.booleans()),
        max_size=30,
    )
)
def test_nobody_ever_calls_within_a_pause(
    history: list[tuple[float, float, float, bool]],
) -> None:
    state, now, paused_until = ThrottleState(), 1000.0, 0.0
    for percent, regain, passed, calls in history:
        now += passed
        if calls:
            state, wait = reserved(state, now)
            assert wait >= 0
            assert now + wait >= paused_until - 1e-6
        else:
            state = observed(state, Usage(percent, regain), now)
            if percent >= 95:
                paused_until = max(paused_until, now + (regain or assumed_pause(percent)))
