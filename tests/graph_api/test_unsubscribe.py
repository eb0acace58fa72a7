import hashlib
import json
from typing import Any

import httpx
import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow, unsubscribe
from tests.graph_api.scripted import Graph, answer

HASH = hashlib.sha256(b"mary@example.com").hexdigest()


@pytest.mark.parametrize(
    "row",
    [
        {"phone": "+14155551234"},
        {"email": "mary@example.com"},
        {"phone": HASH, "email": HASH},
        {"phone": "+4915112345678", "email": HASH},
        {"psid": "4567890123456789"},
        {"subscriber_token": "tok"},
    ],
)
def test_each_permitted_combination_is_sent_as_it_is(graph: Graph, row: dict[str, str]) -> None:
    with graph.answers(answer({"invalid_rows_count": 0})).client() as client:
        assert unsubscribe(client, "134", [UnsubscribeRow(**row)]) == 0
    (request,) = graph.requests
    assert request.url.path == "/v26.0/134/messaging_customer_base/unsubscribe"
    assert json.loads(request.content) == {"data": [row]}


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"psid": ""},
        {"psid": "4567", "subscriber_token": "Q7"},
        {"psid": "4567", "email": "mary@example.com"},
        {"subscriber_token": "Q7", "phone": "+14155551234"},
        {"phone": "14155551234"},
        {"phone": "+1 415 555 1234"},
        {"email": "Mary@example.com"},
        {"email": HASH.upper()},
        {"email": "mary"},
    ],
)
def test_any_other_row_is_refused_before_it_is_sent_and_not_quoted(row: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"^(a row names|phone is|email is)") as caught:
        UnsubscribeRow(**row)
    assert not any(value and value in str(caught.value) for value in row.values())


def test_a_row_shows_no_person() -> None:
    assert repr(UnsubscribeRow(email="mary@example.com")) == "UnsubscribeRow()"


@pytest.mark.parametrize("count", [0, 1001])
def test_a_chunk_has_between_one_row_and_a_thousand(graph: Graph, count: int) -> None:
    with graph.client() as client, pytest.raises(ValueError, match="1000 rows"):
        unsubscribe(client, "134", [UnsubscribeRow(psid="1")] * count)
    assert graph.requests == []


def test_invalid_rows_are_counted(graph: Graph) -> None:
    with graph.answers(answer({"invalid_rows_count": "2"})).client() as client:
        assert unsubscribe(client, "134", [UnsubscribeRow(psid="1")] * 3) == 2


def test_leaving_is_sent_again_until_it_is_answered(graph: Graph) -> None:
    unclear: list[Any] = [httpx.ReadTimeout("slow"), answer({}), answer({"invalid_rows_count": 0})]
    with graph.answers(*unclear).client() as client:
        assert unsubscribe(client, "134", [UnsubscribeRow(psid="1")]) == 0
    assert len(graph.requests) == 3


def test_an_answer_without_the_count_is_no_confirmation(graph: Graph) -> None:
    with (
        graph.answers(answer({"success": True})).client() as client,
        pytest.raises(errors.AmbiguousOutcomeError),
    ):
        unsubscribe(client, "134", [UnsubscribeRow(psid="1")])
