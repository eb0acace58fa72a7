"""The receiver as a process: it finishes what it has, and forgets nothing it answered for."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from tests.servers import free_port
from tests.webhooks.meta import SECRET, VERIFY_TOKEN, body, changes, signed, upload_status

PROCESS = Path(__file__).parent / "receiver_process.py"


@contextmanager
def receiver(url: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.webhooks.receiver_process", url, str(port)],
            stderr=lines,
            cwd=PROCESS.parents[2],
        )
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


class Sender(threading.Thread):
    """Posts events until the receiver stops answering; records those answered with 200."""

    def __init__(self, port: int, first: int) -> None:
        super().__init__()
        self.answered: list[int] = []
        self.refused: list[int] = []
        self._url = f"http://127.0.0.1:{port}/webhooks"
        self._first = first

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            for number in range(self._first, self._first + 100_000):
                content = body(changes(upload_status(number)))
                try:
                    answer = client.post(self._url, content=content, headers=signed(content))
                except httpx.TransportError:
                    return
                (self.answered if answer.status_code == 200 else self.refused).append(number)


def numbers(database: Database) -> set[int]:
    with database.transaction() as connection:
        statement = "select cast(payload ->> 'num_rows' as integer) from mm.webhook_event"
        return set(connection.scalars(text(statement)))


def bombard(port: int, database: Database, until: int = 200) -> list[Sender]:
    """Four senders, of whose events some are stored by now."""
    senders = [Sender(port, first * 1_000_000) for first in range(4)]
    for sender in senders:
        sender.start()
    while len(numbers(database)) < until:
        time.sleep(0.01)
    return senders


def test_a_receiver_killed_has_stored_whatever_it_answered_for(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    with receiver(database_url, port, tmp_path / "log") as process:
        senders = bombard(port, database)
        process.kill()
        for sender in senders:
            sender.join()
    answered = {number for sender in senders for number in sender.answered}
    assert len(answered) >= 100
    assert answered <= numbers(database)


def test_a_receiver_that_is_stopped_answers_what_it_has_and_ends_well(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    with receiver(database_url, port, log) as process:
        senders = bombard(port, database)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
        for sender in senders:
            sender.join()
    answered = {number for sender in senders for number in sender.answered}
    assert all(sender.refused == [] for sender in senders)
    assert answered == numbers(database)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    answers = [line for line in lines if line["message"] == "webhook"]
    assert len(answers) == len(answered)
    assert set(answers[0]) == {"time", "level", "message", "status", "reason", "events", "seconds"}


def test_neither_contents_nor_secrets_reach_the_log(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    with receiver(database_url, port, log):
        content = body({"object": "page", "PRIVATE": 1})
        for post in (content, b"PRIVATE", body(changes({"PRIVATE": 1}, field="PRIVATE"))):
            httpx.post(f"http://127.0.0.1:{port}/webhooks", content=post, headers=signed(post))
        query = {"hub.mode": "subscribe", "hub.verify_token": VERIFY_TOKEN, "hub.challenge": "1"}
        httpx.get(f"http://127.0.0.1:{port}/webhooks", params=query)
    written = log.read_text()
    assert '"status": 200' in written
    for private in ("PRIVATE", SECRET, VERIFY_TOKEN, "postgresql://"):
        assert private not in written
