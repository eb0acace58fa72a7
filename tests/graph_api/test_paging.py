from typing import Any

import httpx
import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.paging import iter_rows
from tests.graph_api.scripted import TOKEN, Graph, Reply, answer, error_answer


def page(ids: list[int], after: str | None, *, more: bool) -> httpx.Response:
    paging: dict[str, Any] = {}
    if after is not None:
        paging["cursors"] = {"before": "b", "after": after}
    if more:
        paging["next"] = f"https://graph.facebook.com/v26.0/1/x?access_token={TOKEN}&after=inNext"
    return answer({"data": [{"id": i} for i in ids], "paging": paging})


def read(graph: Graph, *replies: Reply, limit: int = 10) -> list[int]:
    with graph.answers(*replies).client() as client:
        return [row["id"] for row in iter_rows(client, "1/things", {"fields": "id"}, limit=limit)]


def sent(graph: Graph, name: str) -> list[str | None]:
    return [request.url.params.get(name) for request in graph.requests]


def test_a_listing_ends_where_there_is_no_next_not_where_a_page_is_short_or_empty(
    graph: Graph,
) -> None:
    pages = [
        page([1, 2], "A", more=True),
        page([], "B", more=True),
        page([3], "C", more=True),
        page([4], "D", more=False),  # the last page may keep its cursors
    ]
    assert read(graph, *pages) == [1, 2, 3, 4]
    assert sent(graph, "after") == [None, "A", "B", "C"]


def test_next_is_never_called_since_it_holds_the_token(graph: Graph) -> None:
    read(graph, page([1], "A", more=True), page([2], None, more=False))
    for request in graph.requests:
        assert TOKEN not in str(request.url)
        assert request.url.path == "/v26.0/1/things"
        assert request.url.params["fields"] == "id"


def test_without_cursors_the_one_in_next_is_used(graph: Graph) -> None:
    assert read(graph, page([1], None, more=True), page([2], None, more=False)) == [1, 2]
    assert sent(graph, "after") == [None, "inNext"]


@pytest.mark.parametrize("document", [{"data": []}, {"data": [], "paging": None}])
def test_a_listing_may_have_no_paging_at_all(graph: Graph, document: dict[str, Any]) -> None:
    assert read(graph, answer(document)) == []


def test_a_page_that_is_too_large_is_requested_again_in_halves(graph: Graph) -> None:
    too_much = error_answer(1, status=500, message="Please reduce the amount of data")
    assert read(
        graph, too_much, too_much, page([1], "A", more=True), page([2], "B", more=False)
    ) == [1, 2]
    assert sent(graph, "limit") == ["10", "5", "2", "2"]


def test_a_page_that_cannot_be_made_smaller_is_an_error(graph: Graph) -> None:
    with pytest.raises(errors.TooMuchDataError):
        read(graph, error_answer(1, message="Please reduce the amount of data"))
    assert sent(graph, "limit") == ["10", "5", "2", "1"]


@pytest.mark.parametrize("subcode", [None, 33])
def test_an_expired_cursor_differs_from_a_wrong_request(graph: Graph, subcode: int | None) -> None:
    with pytest.raises(errors.CursorExpiredError, match="from the start"):
        read(graph, page([1], "A", more=True), error_answer(100, subcode))
    with pytest.raises(errors.PermanentError) as caught:
        read(graph, error_answer(100, subcode))
    assert not isinstance(caught.value, errors.CursorExpiredError)


def test_a_listing_that_goes_in_circles_ends(graph: Graph) -> None:
    with pytest.raises(errors.CursorExpiredError):
        read(graph, page([1], "A", more=True))


@pytest.mark.parametrize("document", [{}, {"data": None}, {"data": {}}, {"data": [1]}])
def test_an_answer_without_rows_is_not_taken_for_an_empty_listing(
    graph: Graph, document: dict[str, Any]
) -> None:
    with pytest.raises(errors.UnreadableAnswerError):
        read(graph, answer(document))


def test_a_failed_page_is_repeated_alone(graph: Graph) -> None:
    failed = error_answer(2, status=500)
    assert read(graph, page([1], "A", more=True), failed, page([2], "B", more=False)) == [1, 2]
    assert sent(graph, "after") == [None, "A", "A"]
