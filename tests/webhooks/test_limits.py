"""Requests that are too slow or too large."""

import socket
import time

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from tests.webhooks.conftest import receiving
from tests.webhooks.meta import SECRET, VERIFY_TOKEN, body, changes, signed, upload_status


@pytest.fixture
def impatient() -> ReceiverSettings:
    return ReceiverSettings(
        app_secrets=(SECRET,), verify_token=VERIFY_TOKEN, header_seconds=0.3, body_seconds=0.3
    )


def talk(client: httpx.Client, *parts: bytes) -> bytes:
    """What is answered to bytes sent one part after the other, until the receiver hangs up."""
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port), timeout=20) as line:
        for part in parts:
            line.sendall(part)
            time.sleep(0.05)
        answer = b""
        while received := line.recv(4096):
            answer += received
    return answer


def test_incomplete_headers_close_the_connection(
    impatient: ReceiverSettings, database: Database
) -> None:
    with receiving(impatient, database) as client:
        assert talk(client) == b""
        assert talk(client, b"POST /webhooks HTTP/1.1\r\n", b"Host: x\r\n", b"X-Slow: ") == b""


def test_a_body_that_never_ends_is_408(impatient: ReceiverSettings, database: Database) -> None:
    head = b"POST /webhooks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with receiving(impatient, database) as client:
        answer = talk(client, head, b"{")
    assert answer.startswith(b"HTTP/1.1 408")


def test_headers_of_any_size_are_not_collected(
    impatient: ReceiverSettings, database: Database
) -> None:
    head = b"POST /webhooks HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 100_000
    with receiving(impatient, database) as client:
        assert talk(client, head).startswith(b"HTTP/1.1 400")


def test_a_connection_that_is_used_again_stays_open(
    impatient: ReceiverSettings, database: Database
) -> None:
    content = body(changes(upload_status()))
    with receiving(impatient, database) as client:
        for _ in range(3):
            answer = client.post("/webhooks", content=content, headers=signed(content))
            assert answer.status_code == 200
            time.sleep(0.4)


def test_a_hanging_database_is_answered_with_503(database: Database) -> None:
    impatient = ReceiverSettings(
        app_secrets=(SECRET,), verify_token=VERIFY_TOKEN, answer_seconds=0.3
    )
    content = body(changes(upload_status()))
    with receiving(impatient, database) as client, database.transaction() as connection:
        connection.execute(text("lock table mm.webhook_event in access exclusive mode"))
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        answer = client.post("/webhooks", content=content, headers=signed(content))
        assert answer.status_code == 503
        connection.rollback()
