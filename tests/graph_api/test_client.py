import hashlib
import hmac
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import polars as pl
import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.answer import as_document
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.graph_api.throttle import MemoryThrottle, Quota, Usage
from mm_pipelines.graph_api.users import UploadSession, add_users
from tests.graph_api.scripted import TOKEN, Graph, answer, error_answer

OK = answer({"id": "1"})


def post(client: GraphApiClient, *, repeatable: bool) -> dict[str, object]:
    return client.request("POST", "1/users", as_document, body=b"{}", repeatable=repeatable)


def test_a_call_carries_version_bearer_and_proof(graph: Graph) -> None:
    with graph.answers(OK).client(app_secret="shh", version="v25.0") as client:
        client.get("me/accounts", {"limit": 5, "flag": True})
    (request,) = graph.requests
    assert request.url.copy_with(query=None) == "https://graph.facebook.com/v25.0/me/accounts"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert dict(request.url.params) == {
        "limit": "5",
        "flag": "true",
        "appsecret_proof": hmac.new(b"shh", TOKEN.encode(), hashlib.sha256).hexdigest(),
    }


def test_without_an_app_secret_there_is_no_proof(graph: Graph) -> None:
    with graph.answers(OK).client() as client:
        client.get("me")
    assert "appsecret_proof" not in graph.requests[0].url.params


def test_a_client_never_shows_its_secrets(graph: Graph) -> None:
    with graph.client(app_secret="shh-its-secret") as client:
        assert repr(client) == "GraphApiClient('https://graph.facebook.com/v26.0/')"


@pytest.mark.parametrize("token", ["", "  ", "EAA with blank", "EAA\nnewline", "EAAé"])
def test_an_impossible_token_is_refused_without_quoting_it(graph: Graph, token: str) -> None:
    with pytest.raises(ValueError, match="access token") as caught:
        graph.client(token)
    assert not token.strip() or token not in str(caught.value)


def test_a_token_that_meta_quotes_is_redacted(graph: Graph) -> None:
    graph.answers(error_answer(190, message="Malformed access token x-y-z and proof"))
    with graph.client("x-y-z") as client, pytest.raises(errors.TokenError) as caught:
        client.get("me")
    assert "x-y-z" not in str(caught.value)


# --- what is repeated ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        error_answer(2, status=500),
        error_answer(1200),
        httpx.Response(502, content=b"<html>Bad gateway</html>"),
        httpx.Response(200, content=b'{"id": "1'),
        httpx.ReadTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("cut short"),
        httpx.ConnectError("refused"),
    ],
)
def test_a_transient_failure_is_repeated_with_a_growing_wait(
    graph: Graph, failure: httpx.Response | Exception
) -> None:
    with graph.answers(failure, failure, OK).client() as client:
        assert post(client, repeatable=True) == {"id": "1"}
    assert len(graph.requests) == 3
    first, second = graph.time.sleeps
    assert 0.5 <= first <= 1 <= second <= 2


def test_a_repeated_call_is_the_same_to_the_byte(graph: Graph) -> None:
    with graph.answers(httpx.ReadTimeout("slow"), OK).client() as client:
        client.request("POST", "1/users", as_document, body=b'{"payload": 1}')
    first, second = graph.requests
    assert (first.url, first.content) == (second.url, second.content)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ReadTimeout("slow"),
        httpx.WriteError("reset"),
        error_answer(2, status=500),
        httpx.Response(504, content=b"<html>"),
        httpx.Response(200, content=b"<html>"),
    ],
)
def test_an_unknown_outcome_is_not_repeated_unless_repeatable(
    graph: Graph, failure: httpx.Response | Exception
) -> None:
    with (
        graph.answers(failure, OK).client() as client,
        pytest.raises(errors.AmbiguousOutcomeError),
    ):
        post(client, repeatable=False)
    assert len(graph.requests) == 1


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), error_answer(1200)])
def test_a_call_that_was_not_carried_out_is_always_repeated(
    graph: Graph, failure: httpx.Response | Exception
) -> None:
    with graph.answers(failure, OK).client() as client:
        assert post(client, repeatable=False) == {"id": "1"}


@pytest.mark.parametrize("code", [3, 10, 100, 102, 190, 200, 294, 368, 2635, 2654, 2663])
def test_a_permanent_failure_is_not_repeated(graph: Graph, code: int) -> None:
    with graph.answers(error_answer(code)).client() as client, pytest.raises(errors.GraphApiError):
        client.get("me")
    assert len(graph.requests) == 1
    assert graph.time.slept == 0


def test_attempts_end(graph: Graph) -> None:
    graph.answers(error_answer(2))
    with graph.client(retries=RetryPolicy(attempts=3)) as client:
        with pytest.raises(errors.TransientError):
            client.get("me")
        assert len(graph.requests) == 3


# --- throttling ---------------------------------------------------------------------------------


def usage(percent: float, minutes: float = 0) -> dict[str, str]:
    row = (
        f'[{{"type":"custom_audience","call_count":{percent},"total_cputime":1,"total_time":1,'
        f'"estimated_time_to_regain_access":{minutes}}}]'
    )
    return {"X-Business-Use-Case-Usage": f'{{"123": {row}}}'}


def test_a_short_throttle_is_waited_for(graph: Graph) -> None:
    graph.answers(error_answer(80003, 2446079, headers=usage(100, minutes=1)), OK)
    with graph.client() as client:
        assert client.get("me") == {"id": "1"}
    assert graph.time.slept == 60


def test_a_throttle_inside_an_answer_is_waited_for_too(graph: Graph) -> None:
    messenger = {"error": {"message": "Too many calls", "code": 80003}}
    throttled = answer({"num_received": 1, "subscription_info": {"messenger": messenger}})
    graph.answers(throttled, answer({"num_received": 1}))
    session = UploadSession(1, 1, last_batch_flag=True, estimated_num_total=1)
    with graph.client() as client:
        add_users(client, "1", pl.DataFrame({"EMAIL": ["x"]}), session)
    assert graph.time.slept == 60


def test_a_long_throttle_is_raised_and_nothing_more_is_sent(graph: Graph) -> None:
    graph.answers(error_answer(80003, 2446079, headers=usage(100, minutes=7)), OK)
    with graph.client() as client:
        with pytest.raises(errors.ThrottledError) as caught:
            client.get("me")
        assert caught.value.wait_seconds == 420
        assert caught.value.quota is Quota.CUSTOM_AUDIENCE
        for _ in range(3):
            with pytest.raises(errors.ThrottledError) as caught:
                client.get("me")
            assert caught.value.wait_seconds == 420
    assert len(graph.requests) == 1
    assert graph.time.slept == 0


def test_a_refusal_without_a_time_waits_as_long_as_full_headers_ask_for(graph: Graph) -> None:
    graph.answers(error_answer(80003, 2446079, headers=usage(100)), OK)
    with graph.client() as client, pytest.raises(errors.ThrottledError) as caught:
        client.get("me")
    assert caught.value.wait_seconds == 1920


def test_a_second_refusal_in_a_row_is_a_longer_wait_and_raised(graph: Graph) -> None:
    graph.answers(error_answer(4), error_answer(4), OK)
    with graph.client() as client:
        with pytest.raises(errors.ThrottledError) as caught:
            client.get("me")
        assert caught.value.wait_seconds == 120
        assert graph.time.slept == 60
        graph.time.sleep(120)
        assert client.get("me") == {"id": "1"}
    assert len(graph.requests) == 3


def test_one_call_never_waits_longer_for_quotas_than_the_limit(graph: Graph) -> None:
    throttle = MemoryThrottle(lambda: graph.time.now)
    throttle.observed([Usage(94)])
    graph.answers(OK)
    with graph.client(throttle=throttle) as client:
        for _ in range(8):  # A queue of other callers, 9.5 s apart.
            throttle.before("1/users", 600)
        with pytest.raises(errors.ThrottledError) as caught:
            client.get("me")
        assert caught.value.wait_seconds == pytest.approx(76)
        assert graph.time.slept == 0
        graph.time.sleep(76)
        assert client.get("me") == {"id": "1"}


def test_the_limit_of_a_wait_can_be_set(graph: Graph) -> None:
    graph.answers(error_answer(4), OK)
    patient = RetryPolicy(throttle_wait_limit=10)
    with graph.client(retries=patient) as client, pytest.raises(errors.ThrottledError):
        client.get("me")
    assert graph.time.slept == 0


def test_calls_pause_before_the_quota_is_used_up(graph: Graph) -> None:
    graph.answers(answer({"id": "1"}, headers=usage(96, minutes=30)))
    with graph.client() as client:
        client.get("me")
        with pytest.raises(errors.ThrottledError) as caught:
            client.get("me")
    assert caught.value.wait_seconds == pytest.approx(1800)
    assert len(graph.requests) == 1


def test_calls_slow_down_from_three_quarters(graph: Graph) -> None:
    graph.answers(answer({"id": "1"}, headers=usage(85)))
    with graph.client() as client:
        for _ in range(4):
            client.get("me")
    # The first wait is due after the second call: the spacing was unknown before the first.
    assert graph.time.slept == pytest.approx(2 * 5.0)


def test_a_waiting_call_is_not_made_within_a_pause_that_began_meanwhile(graph: Graph) -> None:
    throttle = MemoryThrottle(lambda: graph.time.now)
    throttle.observed([Usage(85)])
    throttle.before("me", 60)

    def another_call_is_answered(seconds: float) -> None:
        graph.time.sleep(seconds)
        if len(graph.time.sleeps) == 1:
            throttle.observed([Usage(95, 50)])

    graph.answers(OK)
    with graph.client(throttle=throttle, sleep=another_call_is_answered) as client:
        client.get("me")
    assert graph.time.sleeps == [5, 50]


def test_two_clients_of_one_account_share_its_throttle(graph: Graph) -> None:
    throttle = MemoryThrottle(lambda: graph.time.now)
    graph.answers(answer({"id": "1"}, headers=usage(97, minutes=30)))
    with graph.client(throttle=throttle) as one, graph.client(throttle=throttle) as other:
        one.get("me")
        with pytest.raises(errors.ThrottledError):
            other.get("me")


def test_waits_between_attempts_come_from_the_given_randomness(graph: Graph) -> None:
    graph.answers(httpx.ReadTimeout("slow"), httpx.ReadTimeout("slow"), OK)
    retries = RetryPolicy(jitter=lambda lowest, highest: lowest)
    with graph.client(retries=retries) as client:
        client.get("me")
    assert graph.time.sleeps == [0.5, 1.0]


# --- the version --------------------------------------------------------------------------------


def test_the_version_that_answers_is_known_and_another_one_is_logged_once(
    graph: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    graph.answers(answer({"id": "1"}, headers={"facebook-api-version": "v25.0"}))
    with graph.client(version="v24.0") as client:
        assert client.version_used is None
        client.get("me")
        client.get("me")
        assert client.version_used == "v25.0"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "v25.0" in caplog.text
    assert "v24.0" in caplog.text


# --- over a real connection ---------------------------------------------------------------------


@contextmanager
def server(*answers: bytes) -> Iterator[str]:
    """Takes one connection per answer, reads the request's head, answers and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for raw in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(raw)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


WHOLE = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n{"id":"1"}'


@pytest.mark.parametrize(
    "broken",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", b"not even HTTP\r\n\r\n"],
    ids=["hung up", "cut short", "garbage"],
)
def test_a_connection_that_breaks_is_repeated_if_that_is_safe(broken: bytes) -> None:
    waits: list[float] = []
    with server(broken, WHOLE) as url, GraphApiClient("t", base_url=url, sleep=waits.append) as c:
        assert c.get("me") == {"id": "1"}
    assert len([wait for wait in waits if wait > 0]) == 1


def test_a_refused_connection_is_transient_and_not_ambiguous() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with (
        GraphApiClient("t", base_url=url, sleep=lambda _: None) as client,
        pytest.raises(errors.TransientError, match="cannot be reached") as caught,
    ):
        client.get("me")
    assert not isinstance(caught.value, errors.AmbiguousOutcomeError)


@pytest.mark.parametrize(
    "base_url",
    [
        "graph.facebook.com",
        "https://",
        "http://me:secret@graph.example:80a",
        "http://me:secret@graph.example:99999",
        "http://me:secret@[::1",
        "ftp://me:secret@graph.example",
    ],
)
def test_an_invalid_base_url_is_reported_without_quoting_it(base_url: str) -> None:
    with pytest.raises(errors.PermanentError, match="Set MM_GRAPH_API_URL") as caught:
        GraphApiClient("t", base_url=base_url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_client_may_be_used_by_many_threads(graph: Graph) -> None:
    graph.answers(OK)
    results: list[object] = []
    with graph.client() as client:
        threads = [
            threading.Thread(target=lambda: results.append(client.get("me"))) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [{"id": "1"}] * 16
