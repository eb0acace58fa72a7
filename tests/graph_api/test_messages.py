import json
from typing import Any

import httpx
import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.messages import OptInRequest, Verdict, send_opt_in_request, verdict
from mm_pipelines.graph_api.retry import RetryPolicy
from tests.graph_api.scripted import Graph, Reply, answer, error_answer

ASKED: dict[str, Any] = {
    "psid": "4567890123456789",
    "title": "Get updates",
    "image_url": "https://example.com/a.png",
    "payload": "from-the-demo",
}


def test_a_request_is_sent_as_documented(graph: Graph) -> None:
    graph.answers(answer({"recipient": {"id": ASKED["psid"], "message_id": "m_1"}}))
    request = OptInRequest(**ASKED, timezone="America/New_York", cta_text="OPT_IN")
    with graph.client() as client:
        assert send_opt_in_request(client, "134", request).message_id == "m_1"
    (sent,) = graph.requests
    assert sent.url.path == "/v26.0/134/messages"
    assert json.loads(sent.content) == {
        "recipient": {"id": "4567890123456789"},
        "page": "134",
        "message": {
            "attachment": {
                "type": "template",
                "payload": {
                    "template_type": "notification_messages",
                    "notification_messages_timezone": "America/New_York",
                    "notification_messages_cta_text": "OPT_IN",
                    "title": "Get updates",
                    "image_url": "https://example.com/a.png",
                    "payload": "from-the-demo",
                },
            }
        },
    }


@pytest.mark.parametrize(
    "document",
    [
        {"recipient": {"id": "4567890123456789", "message_id": "m_1"}},
        {"recipient_id": "4567890123456789", "message_id": "m_1"},
        {"recipient_id": 4567890123456789, "message_id": "m_1"},
    ],
)
def test_the_receipt_is_read_from_either_shape_and_shows_no_person(
    graph: Graph, document: dict[str, Any]
) -> None:
    with graph.answers(answer(document)).client() as client:
        receipt = send_opt_in_request(client, "134", OptInRequest(**ASKED))
    assert (receipt.recipient_id, receipt.message_id) == ("4567890123456789", "m_1")
    assert "4567" not in repr(receipt) + repr(OptInRequest(**ASKED))


@pytest.mark.parametrize(
    "wrong",
    [
        {"psid": ""},
        {"title": ""},
        {"title": "x" * 66},
        {"image_url": "http://example.com/a.png"},
        {"cta_text": "BUY"},
    ],
)
def test_a_question_that_meta_would_refuse_is_never_sent(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"psid|title|image_url|cta_text"):
        OptInRequest(**{**ASKED, **wrong})


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (error_answer(10, 2018278), Verdict.SKIP_PERSON),
        (error_answer(10, 2018065), Verdict.SKIP_PERSON),
        (error_answer(10, 2018108), Verdict.SKIP_PERSON),
        (error_answer(10, 1893063), Verdict.STOP),
        (error_answer(10), Verdict.STOP),
        (error_answer(100, 2018001), Verdict.SKIP_PERSON),
        (error_answer(100), Verdict.STOP),
        (error_answer(200, 1545041, status=403), Verdict.SKIP_PERSON),
        (error_answer(551), Verdict.SKIP_PERSON),
        (error_answer(551, 1545041), Verdict.SKIP_PERSON),
        (error_answer(9, 2018352), Verdict.SKIP_PERSON),
        (error_answer(1893047), Verdict.SKIP_PERSON),
        (error_answer(4, 2018022), Verdict.RETRY),
        (error_answer(4, 2018354), Verdict.RETRY),
        (error_answer(613), Verdict.RETRY),
        (error_answer(80006), Verdict.RETRY),
        (error_answer(1200), Verdict.RETRY),
        (httpx.ConnectError("refused"), Verdict.RETRY),
        (httpx.ReadTimeout("slow"), Verdict.MAYBE_ASKED),
        (error_answer(2, status=500), Verdict.MAYBE_ASKED),
        (httpx.Response(502, content=b"<html>"), Verdict.MAYBE_ASKED),
        (answer({"success": True}), Verdict.MAYBE_ASKED),
        (error_answer(190), Verdict.STOP),
        (error_answer(200), Verdict.STOP),
        (error_answer(368), Verdict.STOP),
        (error_answer(2635), Verdict.STOP),
    ],
)
def test_every_failure_has_a_verdict(graph: Graph, failure: Reply, expected: Verdict) -> None:
    with (
        graph.answers(failure).client(retries=RetryPolicy(attempts=1)) as client,
        pytest.raises(errors.GraphApiError) as caught,
    ):
        send_opt_in_request(client, "134", OptInRequest(**ASKED))
    assert verdict(caught.value) is expected


def test_a_lost_answer_does_not_lead_to_a_second_request(graph: Graph) -> None:
    graph.answers(httpx.ReadTimeout("slow"), answer({"recipient_id": "1", "message_id": "m"}))
    with graph.client() as client, pytest.raises(errors.AmbiguousOutcomeError):
        send_opt_in_request(client, "134", OptInRequest(**ASKED))
    assert len(graph.requests) == 1
