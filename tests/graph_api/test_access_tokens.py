from datetime import UTC, datetime

import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.access_tokens import debug_token
from tests.graph_api.scripted import Graph, answer


def test_a_valid_token_is_described(graph: Graph) -> None:
    graph.answers(
        answer(
            {
                "data": {
                    "app_id": "1",
                    "type": "SYSTEM_USER",
                    "application": "Ours",
                    "is_valid": True,
                    "expires_at": 0,
                    "data_access_expires_at": 1_800_000_000,
                    "scopes": ["ads_management", "pages_messaging"],
                    "user_id": 122,
                }
            }
        )
    )
    with graph.client("1|secret") as client:
        info = debug_token(client, " EAAasked ")
    assert graph.requests[0].url.params["input_token"] == "EAAasked"
    assert info.is_valid
    assert info.kind == "SYSTEM_USER"
    assert info.expires_at is None
    assert info.data_access_expires_at == datetime.fromtimestamp(1_800_000_000, UTC)
    assert info.scopes == {"ads_management", "pages_messaging"}


def test_a_revoked_token_is_no_error_but_not_valid(graph: Graph) -> None:
    error = {"code": 190, "message": "The session of EAAasked was invalidated", "subcode": 460}
    graph.answers(answer({"data": {"is_valid": False, "scopes": [], "error": error}}))
    with graph.client("1|secret") as client:
        info = debug_token(client, "EAAasked")
    assert not info.is_valid
    assert info.error is not None
    assert "invalidated" in info.error
    assert "EAAasked" not in repr(info)


@pytest.mark.parametrize("document", [{}, {"data": {}}, {"data": []}])
def test_an_answer_without_a_verdict_is_none(graph: Graph, document: dict[str, object]) -> None:
    with (
        graph.answers(answer(document)).client() as client,
        pytest.raises(errors.UnreadableAnswerError),
    ):
        debug_token(client, "EAAasked")
