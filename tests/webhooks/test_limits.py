"""Requests that are too slow or too large."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

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


def send_unfinished(client: httpx.Client, size: int) -> socket.socket:
    """A POST that announces a byte more than it sends."""
    line = socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)
    line.sendall(
        b"POST /webhooks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (size + 1)
        + b"x" * size
    )
    return line


def test_large_bodies_that_are_not_verified_share_a_limit(database: Database) -> None:
    settings = ReceiverSettings(
        app_secrets=(SECRET,), verify_token=VERIFY_TOKEN, unverified_bytes=2**20
    )
    usual = body(changes(upload_status(1)))
    large = usual + b" " * 600_000
    with receiving(settings, database) as client:
        held = [send_unfinished(client, 600_000), send_unfinished(client, 600_000)]
        # The second does not fit beside the first.
        assert held[1].recv(4096).startswith(b"HTTP/1.1 503")
        assert client.post("/webhooks", content=usual, headers=signed(usual)).status_code == 200
        refused = client.post("/webhooks", content=large, headers=signed(large))
        assert refused.status_code == 503
        for line in held:
            line.close()
        give_up = time.monotonic() + 10
        while client.post("/webhooks", content=large, headers=signed(large)).status_code != 200:
            assert time.monotonic() < give_up


def test_connections_beyond_the_limit_are_closed_and_others_go_on(database: Database) -> None:
    settings = ReceiverSettings(
        app_secrets=(SECRET,), verify_token=VERIFY_TOKEN, most_connections=5, header_seconds=30
    )
    content = body(changes(upload_status(1)))
    with receiving(settings, database) as client:
        assert client.get("/healthz").status_code == 200  # its connection stays open
        address = (client.base_url.host, client.base_url.port)
        lines = [socket.create_connection(address, timeout=20) for _ in range(8)]
        closed = 0
        for line in lines[4:]:
            closed += line.recv(1) == b""
        assert closed == 4
        assert client.post("/webhooks", content=content, headers=signed(content)).status_code == 200
        for line in lines:
            line.close()


def test_two_receivers_store_each_event_once(database: Database) -> None:
    settings = ReceiverSettings(app_secrets=(SECRET,), verify_token=VERIFY_TOKEN)
    bodies = [body(changes(upload_status(rows))) for rows in range(1, 201)]

    def post(client: httpx.Client) -> set[int]:
        return {
            client.post("/webhooks", content=content, headers=signed(content)).status_code
            for content in bodies
        }

    other = Database(database.url)
    with (
        receiving(settings, database) as one,
        receiving(settings, other) as two,
        ThreadPoolExecutor(2) as senders,
    ):
        assert set.union(*senders.map(post, (one, two))) == {200}
    other.dispose()
    with database.transaction() as connection:
        assert connection.scalar(text("select count(*) from mm.webhook_event")) == 200
