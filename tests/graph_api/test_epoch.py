"""One reading of Meta's times for listings, webhooks and access tokens."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.graph_api.epoch import epoch_time

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECONDS = int(NOON.timestamp())


@pytest.mark.parametrize("value", [SECONDS, str(SECONDS), SECONDS * 1000, str(SECONDS * 1000)])
def test_seconds_and_milliseconds_are_read_as_numbers_and_as_text(value: object) -> None:
    assert epoch_time(value) == NOON


@pytest.mark.parametrize("value", [None, 0, "0", -1, True, "", "soon", 1.5, "²", 10**30, "9" * 40])
def test_never_and_unreadable_times_are_none(value: object) -> None:
    assert epoch_time(value) is None


@given(st.integers() | st.text() | st.floats() | st.none() | st.lists(st.integers()))
def test_no_value_raises(value: object) -> None:
    epoch_time(value)
