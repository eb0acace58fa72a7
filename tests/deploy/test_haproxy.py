"""deploy/haproxy.cfg before two receivers."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from tests.servers import free_port, wait_until_listening
from tests.webhooks.meta import body, changes, signed, upload_status
from tests.webhooks.test_process import receiver

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(
    not HAPROXY or not OPENSSL, reason="needs Debian's haproxy and openssl"
)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key, certificate, both = (tmp_path / name for name in ("key", "certificate", "both.pem"))
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    request = [str(OPENSSL), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *subject, *files], check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    return both


def deliver(client: httpx.Client, content: bytes) -> None:
    """Post as Meta does: again, until it is answered with 200."""
    for _ in range(5):
        try:
            answer = client.post("/webhooks", content=content, headers=signed(content))
        except httpx.TransportError:  # the receiver was killed in the middle of the request
            continue
        if answer.status_code == 200:
            return
    raise AssertionError("five deliveries failed")


@contextmanager
def proxy(certificate: Path, ports: tuple[int, int]) -> Iterator[int]:
    """haproxy before the receivers on these ports; yields its own."""
    public = free_port()
    variables = {
        "CERTIFICATE": str(certificate),
        "PUBLIC_PORT": str(public),
        "RECEIVER_1": f"127.0.0.1:{ports[0]}",
        "RECEIVER_2": f"127.0.0.1:{ports[1]}",
    }
    process = subprocess.Popen(
        [str(HAPROXY), "-db", "-f", CONFIG],
        env=os.environ | variables,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until_listening(public)
        yield public
    finally:
        process.terminate()
        process.wait(10)


def test_a_receiver_may_die_and_only_webhooks_are_public(
    database: Database, certificate: Path, tmp_path: Path
) -> None:
    ports = (free_port(), free_port())
    trust = ssl.create_default_context(cafile=str(certificate))
    contents = [body(changes(upload_status(rows))) for rows in range(1, 101)]
    with (
        receiver(database.url, ports[0], tmp_path / "one") as one,
        receiver(database.url, ports[1], tmp_path / "two"),
        proxy(certificate, ports) as public,
        httpx.Client(base_url=f"https://127.0.0.1:{public}", verify=trust, timeout=20) as client,
    ):
        for path in ("/metrics", "/readyz", "/healthz", "/", "/webhooks/x"):
            assert client.get(path).status_code == 404
        for number, content in enumerate(contents):
            if number == 50:
                one.send_signal(signal.SIGKILL)
            deliver(client, content)
    with database.transaction() as connection:
        assert connection.scalar(text("select count(*) from mm.webhook_event")) == 100


@pytest.mark.slow
def test_headers_that_do_not_arrive_end_the_connection(certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))
    with (
        proxy(certificate, (free_port(), free_port())) as public,
        socket.create_connection(("127.0.0.1", public), timeout=30) as line,
        trust.wrap_socket(line, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(b"POST /webhooks HTTP/1.1\r\nHost: x\r\n")
        begun = time.monotonic()
        while secured.recv(4096):
            pass
        assert time.monotonic() - begun < 15
