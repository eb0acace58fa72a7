import json

import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.subscriptions import (
    PAGE_FIELDS,
    AppSubscription,
    SubscribedApp,
    app_subscriptions,
    page_subscriptions,
    subscribe_app,
    subscribe_page,
)
from tests.graph_api.scripted import Graph, answer, error_answer


def subscribed(graph: Graph) -> bool:
    with graph.client("1|secret") as client:
        return subscribe_app(
            client,
            "1",
            object_type="page",
            callback_url="https://example.com/webhooks",
            fields=PAGE_FIELDS,
            verify_token="a-word",
        )


def test_the_app_is_subscribed_with_the_receivers_address(graph: Graph) -> None:
    assert subscribed(graph.answers(answer({"success": True})))
    (request,) = graph.requests
    assert (request.url.path, request.url.query) == ("/v26.0/1/subscriptions", b"")
    assert json.loads(request.content) == {
        "object": "page",
        "callback_url": "https://example.com/webhooks",
        "fields": ",".join(PAGE_FIELDS),
        "verify_token": "a-word",
        "include_values": True,
    }


def test_a_failed_handshake_has_a_next_step(graph: Graph) -> None:
    message = (
        "(#2200) Callback verification failed with the following errors: HTTP Status Code = 403"
    )
    with pytest.raises(errors.PermanentError, match="Start the receiver"):
        subscribed(graph.answers(error_answer(2200, message=message)))


@pytest.mark.parametrize(("success", "told"), [(True, True), ("true", True), (False, False)])
def test_success_is_read_as_boolean_or_text(graph: Graph, success: object, *, told: bool) -> None:
    with graph.answers(answer({"success": success})).client() as client:
        assert subscribe_page(client, "134", ["messaging_optins"]) is told
    (request,) = graph.requests
    assert request.url.path == "/v26.0/134/subscribed_apps"
    assert request.url.params["subscribed_fields"] == "messaging_optins"


def test_an_answer_without_success_is_unreadable(graph: Graph) -> None:
    with (
        graph.answers(answer({"ok": 1})).client() as client,
        pytest.raises(errors.UnreadableAnswerError),
    ):
        subscribe_page(client, "134")


def test_what_an_app_is_subscribed_to_is_listed(graph: Graph) -> None:
    row = {
        "object": "page",
        "callback_url": "https://example.com/webhooks",
        "active": True,
        "fields": [{"name": "messaging_optins", "version": "v26.0"}, {"name": "messages"}],
    }
    with graph.answers(answer({"data": [row]})).client("1|secret") as client:
        assert app_subscriptions(client, "1") == [
            AppSubscription(
                object="page",
                callback_url="https://example.com/webhooks",
                active=True,
                fields=frozenset({"messaging_optins", "messages"}),
            )
        ]


def test_the_apps_of_a_page_are_listed(graph: Graph) -> None:
    rows = [{"id": "1", "subscribed_fields": ["messages", "messaging_optins"]}, {"app_id": 2}]
    with graph.answers(answer({"data": rows})).client() as client:
        ours, other = page_subscriptions(client, "134")
    assert ours == SubscribedApp("1", frozenset({"messages", "messaging_optins"}))
    assert other == SubscribedApp("2", frozenset())
