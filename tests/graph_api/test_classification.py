"""Every code of docs/graph-api.md#errors becomes the error that states the reaction."""

import json

import httpx
import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.graph_api.throttle import Quota
from tests.graph_api.scripted import Graph, error_answer

ONCE = RetryPolicy(attempts=1)

BY_CODE = {
    errors.AmbiguousOutcomeError: [1, 2],
    errors.TransientError: [
        *(1200, 2300012, 2300041, 2300055, 2300057),
        *(2300060, 2300061, 2300062, 2300063, 2300068),
    ],
    errors.ThrottledError: [
        *(4, 17, 32, 341, 613, *range(80000, 80007), 80008, 80009, 80014),
        *(2300028, 2300078, 2300079, 2300080),
    ],
    errors.PolicyError: [368],
    errors.TokenError: [102, 190],
    errors.PermissionDeniedError: [3, 10, 200, 270, 294, 299, 2300030, 2300031, 2300039, 2300040],
    errors.TermsNotAcceptedError: [2663, 2664, 2300013, 2300019, 2300066, 2300067],
    errors.ContentRefusedError: [100, 105, 194, 2650],
    errors.PermanentError: [104, 2200, 2500, 2654, 2300004, 2300037, 2300042],
    errors.VersionDeadError: [2635],
}

BY_SUBCODE = {
    (100, 33): errors.NotFoundError,
    (100, 1713228): errors.PolicyError,
    (100, 1713230): errors.PolicyError,
    (100, 1713231): errors.PolicyError,
    (100, 1713098): errors.ContentRefusedError,
    (190, 458): errors.TokenError,
    (190, 463): errors.TokenError,
    (200, 1870050): errors.PermissionDeniedError,
    (200, 1870090): errors.TermsNotAcceptedError,
    (2650, 1870144): errors.ContentRefusedError,
    (2650, 1870145): errors.TransientError,
    (2650, 1870147): errors.SessionEndedError,
    (2650, 1870148): errors.TransientError,
    (2650, 1870158): errors.SessionEndedError,
    (2650, 1870159): errors.SessionEndedError,
    (17, 2446079): errors.ThrottledError,
    (613, 1996): errors.ThrottledError,
    (80003, 2446079): errors.ThrottledError,
    (4, 2018022): errors.ThrottledError,
    (10, 2018278): errors.PermissionDeniedError,
}


def raised(graph: Graph, reply: httpx.Response) -> errors.GraphApiError:
    with (
        graph.answers(reply).client(retries=ONCE) as client,
        pytest.raises(errors.GraphApiError) as caught,
    ):
        client.get("me")
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind"), [(code, kind) for kind, codes in BY_CODE.items() for code in codes]
)
@pytest.mark.parametrize("status", [200, 400, 401, 403])
def test_the_code_decides_for_every_status(
    graph: Graph, code: int, kind: type[errors.GraphApiError], status: int
) -> None:
    assert type(raised(graph, error_answer(code, status=status))) is kind


@pytest.mark.parametrize(("codes", "kind"), BY_SUBCODE.items())
def test_the_subcode_decides_within_a_code(
    graph: Graph, codes: tuple[int, int], kind: type[errors.GraphApiError]
) -> None:
    error = raised(graph, error_answer(*codes))
    assert type(error) is kind
    assert (error.code, error.subcode) == codes


def test_an_unknown_code_is_judged_by_is_transient_and_then_by_status(graph: Graph) -> None:
    assert type(raised(graph, error_answer(777777, is_transient=True))) is errors.TransientError
    for status, kind in {
        400: errors.PermanentError,
        401: errors.TokenError,
        403: errors.PermissionDeniedError,
        429: errors.ThrottledError,
        500: errors.AmbiguousOutcomeError,
        503: errors.AmbiguousOutcomeError,
    }.items():
        assert type(raised(graph, error_answer(777777, status=status))) is kind


def test_a_known_code_is_stronger_than_is_transient(graph: Graph) -> None:
    assert type(raised(graph, error_answer(190, is_transient=True))) is errors.TokenError


def test_a_page_that_is_too_large_differs_from_an_unknown_error(graph: Graph) -> None:
    message = "Please reduce the amount of data you're asking for, then retry your request"
    error = raised(graph, error_answer(1, status=500, message=message))
    assert type(error) is errors.TooMuchDataError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, errors.UnreadableAnswerError),
        (400, errors.PermanentError),
        (401, errors.PermanentError),
        (403, errors.PermanentError),
        (404, errors.PermanentError),
        (408, errors.UnreadableAnswerError),
        (429, errors.ThrottledError),
        (502, errors.UnreadableAnswerError),
        (503, errors.UnreadableAnswerError),
    ],
)
@pytest.mark.parametrize(
    "body",
    [b"<html><body>Sorry, something went wrong.</body></html>", b"", b'{"data": [{"id', b"[1]"],
    ids=["html", "empty", "cut short", "no object"],
)
def test_an_answer_that_is_no_answer_of_the_api(
    graph: Graph, status: int, kind: type[errors.GraphApiError], body: bytes
) -> None:
    assert type(raised(graph, httpx.Response(status, content=body))) is kind


def test_the_error_carries_what_metas_support_asks_for_and_a_next_step(graph: Graph) -> None:
    error = raised(graph, error_answer(190, 463, status=401, message="Session has expired"))
    assert (error.code, error.subcode, error.status) == (190, 463, 401)
    assert error.fbtrace_id == "AbCdEfG"
    assert "has expired: make a new one" in error.next_step
    for part in ("Session has expired", "190", "463", "401", "AbCdEfG", error.next_step):
        assert part in str(error)


def test_an_error_that_is_null_is_none(graph: Graph) -> None:
    with graph.answers(httpx.Response(200, json={"error": None, "id": "1"})).client() as client:
        assert client.get("me")["id"] == "1"


def test_numbers_written_as_text_are_read(graph: Graph) -> None:
    reply = httpx.Response(
        400, json={"error": {"message": "No", "code": "100", "error_subcode": "33"}}
    )
    assert type(raised(graph, reply)) is errors.NotFoundError


@pytest.mark.parametrize("error", [{"message": None, "code": None}, {"code": {}}, {"type": "X"}])
def test_an_odd_envelope_is_still_an_error(graph: Graph, error: object) -> None:
    assert type(raised(graph, httpx.Response(400, json={"error": error}))) is errors.PermanentError


def test_the_content_type_is_not_looked_at(graph: Graph) -> None:
    reply = httpx.Response(
        200, content=json.dumps({"id": "1"}), headers={"content-type": "text/javascript"}
    )
    with graph.answers(reply).client() as client:
        assert client.get("me") == {"id": "1"}


def test_every_error_has_a_next_step() -> None:
    def kinds(kind: type[errors.GraphApiError]) -> list[type[errors.GraphApiError]]:
        return [kind, *(sub for below in kind.__subclasses__() for sub in kinds(below))]

    for kind in kinds(errors.GraphApiError):
        assert kind.advice.endswith(".")
        assert str(kind("What happened")) == f"What happened. {kind.advice}"


@pytest.mark.parametrize(
    ("code", "quota"),
    [
        (4, Quota.APPLICATION),
        (17, Quota.AD_ACCOUNT),
        (80004, Quota.AD_ACCOUNT),
        (80003, Quota.CUSTOM_AUDIENCE),
        (32, Quota.PAGE),
        (80001, Quota.PAGE),
        (80006, Quota.PAGE),
        (2300080, Quota.TOKEN_LISTING),
        (613, None),
    ],
)
def test_a_throttling_refusal_has_its_kind_of_quota(
    graph: Graph, code: int, quota: Quota | None
) -> None:
    error = raised(graph, error_answer(code))
    assert isinstance(error, errors.ThrottledError)
    assert error.quota is quota


@pytest.mark.parametrize("code", [100, 2650, 777777])
def test_a_removal_from_a_small_audience_is_recognized_by_its_message(
    graph: Graph, code: int
) -> None:
    message = (
        "Audience Size too low: You cannot remove users from this audience because it will result "
        "in a low audience size."
    )
    assert type(raised(graph, error_answer(code, message=message))) is errors.SmallAudienceError


def test_a_missing_proof_is_not_about_the_request(graph: Graph) -> None:
    message = "API calls from the server require an appsecret_proof argument"
    error = raised(graph, error_answer(100, message=message))
    assert type(error) is errors.PermissionDeniedError
    assert "MM_APP_SECRET" in error.next_step
