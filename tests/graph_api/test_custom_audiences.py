import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.custom_audiences import (
    AudienceStatus,
    create_custom_audience,
    find_custom_audience,
    find_or_create_custom_audience,
    get_custom_audience,
    list_custom_audiences,
    list_sessions,
)
from tests.graph_api.scripted import Graph, Reply, answer, error_answer

PAGE = "134141414124123"
WANTED: dict[str, Any] = {"name": "Acme newsletter", "description": "Agreed", "page_id": PAGE}


def listed(*audiences: dict[str, Any]) -> httpx.Response:
    return answer({"data": list(audiences), "paging": {}})


def acme(audience_id: str, **more: Any) -> dict[str, Any]:
    page = {"id": PAGE, "name": "Acme"}
    return {
        "id": audience_id,
        "name": WANTED["name"],
        "messenger_marketing_messages_page": page,
        **more,
    }


def test_an_audience_is_created_as_documented(graph: Graph) -> None:
    graph.answers(answer({"data": [{"id": "23847"}]}))
    with graph.client() as client:
        assert create_custom_audience(client, "12348141984909088", **WANTED) == "23847"
    (request,) = graph.requests
    assert request.url.path == "/v26.0/act_12348141984909088/customaudiences"
    assert json.loads(request.content) == {
        "subtype": "CUSTOM",
        "customer_file_source": "USER_PROVIDED_ONLY",
        "name": "Acme newsletter",
        "description": "Agreed",
        "use_for_products": ["MARKETING_MESSAGES"],
        "subscription_info": ["MESSENGER"],
        "marketing_message_channels": {"MESSENGER": PAGE},
    }


@pytest.mark.parametrize(
    "document",
    [{"data": [{"id": "7"}]}, {"id": "7"}, {"id": 7, "message": "Created"}, {"data": [{"id": 7}]}],
)
def test_the_created_id_is_read_from_either_shape(graph: Graph, document: dict[str, Any]) -> None:
    with graph.answers(answer(document)).client() as client:
        assert create_custom_audience(client, "act_1", **WANTED) == "7"


@pytest.mark.parametrize("document", [{}, {"data": []}, {"data": [{}]}, {"success": True}])
def test_a_created_audience_without_an_id_is_an_unknown_outcome(
    graph: Graph, document: dict[str, Any]
) -> None:
    with graph.answers(answer(document)).client() as client:
        with pytest.raises(errors.AmbiguousOutcomeError):
            create_custom_audience(client, "1", **WANTED)
        assert len(graph.requests) == 1


def test_listing_asks_with_metas_filter(graph: Graph) -> None:
    with graph.answers(listed(acme("1"))).client() as client:
        (audience,) = list_custom_audiences(client, "1")
    params = graph.requests[0].url.params
    assert json.loads(params["filtering"]) == [
        {"field": "data_source.subtype", "operator": "IN", "value": [1010]}
    ]
    assert params["fields"].startswith("id,name,messenger_marketing_messages_page,")
    assert params["limit"] == "20"
    assert audience.page_id == PAGE


def test_the_page_is_read_as_a_node_or_as_an_id(graph: Graph) -> None:
    for page in (PAGE, int(PAGE), {"id": PAGE}):
        reply = answer({"id": "1", "messenger_marketing_messages_page": page})
        with graph.answers(reply).client() as client:
            assert get_custom_audience(client, "1").page_id == PAGE


def test_an_audience_is_read_into_types(graph: Graph) -> None:
    graph.answers(
        answer(
            {
                "id": 23847,
                "name": "Acme newsletter",
                "approximate_count_lower_bound": "105",
                "approximate_count_upper_bound": -1,
                "operation_status": {"code": 471, "description": "Flagged"},
                "delivery_status": {"code": "300"},
                "time_created": "1790000000",
            }
        )
    )
    with graph.client() as client:
        audience = get_custom_audience(client, "23847")
    assert audience.id == "23847"
    assert audience.approximate_count_lower_bound == 105
    assert audience.approximate_count_upper_bound is None
    assert audience.operation_status == AudienceStatus(471, "Flagged")
    assert audience.is_flagged
    assert audience.delivery_status == AudienceStatus(300, None)
    assert audience.time_created == datetime.fromtimestamp(1_790_000_000, UTC)


def test_an_audience_is_found_by_its_name_and_page_the_oldest_first(graph: Graph) -> None:
    graph.answers(
        listed(
            acme("9", time_created=300),
            acme("8", time_created=200),
            acme("1", time_created=100, messenger_marketing_messages_page={"id": "999"}),
            acme("2", time_created=100, name="Another"),
            acme("3", time_created=100, messenger_marketing_messages_page=None),
        )
    )
    with graph.client() as client:
        found = find_custom_audience(client, "1", name=WANTED["name"], page_id=PAGE)
        assert found is not None
        assert found.id == "8"
        assert find_custom_audience(client, "1", name="None such", page_id=PAGE) is None


@pytest.mark.parametrize(
    ("replies", "result", "created"),
    [
        ([listed(acme("1"))], ("1", False), 0),
        ([listed(), answer({"id": "2"})], ("2", True), 1),
        ([listed(), httpx.ReadTimeout("slow"), listed(acme("3"))], ("3", True), 1),
        ([listed(), error_answer(2, status=500), listed(acme("3"))], ("3", True), 1),
    ],
    ids=["it is there", "it is new", "created in a time-out", "created in a 500"],
)
def test_an_audience_is_found_or_created_once(
    graph: Graph, replies: list[Reply], result: tuple[str, bool], created: int
) -> None:
    with graph.answers(*replies).client() as client:
        assert find_or_create_custom_audience(client, "1", **WANTED) == result
    assert [request.method for request in graph.requests].count("POST") == created


def test_a_creation_that_cannot_be_confirmed_is_left_to_the_next_run(graph: Graph) -> None:
    graph.answers(listed(), httpx.ReadTimeout("slow"), listed())
    with graph.client() as client, pytest.raises(errors.AmbiguousOutcomeError):
        find_or_create_custom_audience(client, "1", **WANTED)
    assert [request.method for request in graph.requests] == ["GET", "POST", "GET"]


def test_sessions_are_read_into_types_though_all_is_text(graph: Graph) -> None:
    row = {
        "session_id": "77",
        "stage": "uploading",
        "progress": "100",
        "num_received": "3000",
        "num_invalid_entries": "4",
        "num_matched": "1200",
        "end_time": "0",
    }
    with graph.answers(listed(row)).client() as client:
        (session,) = list_sessions(client, "1")
    assert graph.requests[0].url.path == "/v26.0/1/sessions"
    assert (session.session_id, session.stage) == ("77", "uploading")
    assert (session.num_received, session.num_invalid_entries, session.num_matched) == (
        *(3000, 4, 1200),
    )
    assert session.end_time is None
