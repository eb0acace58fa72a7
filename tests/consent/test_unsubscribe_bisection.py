"""Which rows Meta refused, though it only says how many."""

import json

import httpx
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.consent.unsubscribe_bisection import BisectionResult, unsubscribe_by_bisection
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow
from tests.consent.page import PAGE_ID


def trace(size: int, invalid: set[int], calls: int) -> tuple[BisectionResult, set[int]]:
    """The result, and the indexes of the rows that Meta unsubscribed."""
    unsubscribed: set[int] = set()

    def meta(request: httpx.Request) -> httpx.Response:
        asked = {int(row["psid"]) for row in json.loads(request.content)["data"]}
        unsubscribed.update(asked - invalid)
        return httpx.Response(200, json={"invalid_rows_count": len(asked & invalid)})

    rows = [UnsubscribeRow(psid=str(place)) for place in range(size)]
    with GraphApiClient("EAApage", transport=httpx.MockTransport(meta)) as client:
        return unsubscribe_by_bisection(client, PAGE_ID, rows, calls=calls), unsubscribed


sizes_and_invalid = st.integers(1, 60).flatmap(
    lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)))
)


@given(sizes_and_invalid)
def test_every_refused_row_is_found_and_no_other(given_: tuple[int, set[int]]) -> None:
    size, invalid = given_
    result, unsubscribed = trace(size, invalid, calls=2 * size)
    assert set(result.refused) == invalid
    assert set(result.accepted) == unsubscribed == set(range(size)) - invalid
    assert result.unresolved == []


@given(sizes_and_invalid, st.integers(1, 12))
def test_within_the_limit_every_row_is_classified_correctly(
    given_: tuple[int, set[int]], calls: int
) -> None:
    size, invalid = given_
    result, unsubscribed = trace(size, invalid, calls)
    assert result.calls <= calls
    assert sorted(result.accepted + result.refused + result.unresolved) == list(range(size))
    assert set(result.refused) <= invalid
    assert set(result.accepted) <= unsubscribed


def test_one_bad_row_among_a_thousand_takes_eleven_calls() -> None:
    result, _ = trace(1000, {617}, calls=100)
    assert (result.refused, result.calls) == ([617], 11)
