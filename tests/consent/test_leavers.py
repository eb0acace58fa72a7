"""People who leave in every way, from many Pages, while everything fails now and then."""

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.consent import opt_out_requests
from mm_pipelines.consent.erasure import requests as erasure_requests
from mm_pipelines.consent.opt_out_requests import NewRequest
from mm_pipelines.graph_api.messages import OptInRequest, send_opt_in_request
from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.payload import registry
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import server as receiver_server
from tests.consent.leavers_work import DAY, client_of, deliver
from tests.consent.page import APP_SECRET
from tests.servers import serving

NEXT_DAY = date(2026, 11, 21)
WAYS = ("list", "table", "erasure", "command", "stop")
STAYING = 20
MOST_ROUNDS = 30


def sha(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


@dataclass
class Trial:
    """Pages with customers and people on Messenger; some of them leave by each way."""

    server: EmbeddedPostgres
    database: Database
    storage: Storage
    folder: Path
    sandbox_url: str
    pages: list[str]
    leavers_of_way: int
    chance: random.Random
    tokens: dict[str, list[str]] = field(default_factory=dict)
    psids: dict[str, list[str]] = field(default_factory=dict)

    def open(self) -> None:
        """Upload everyone, and let people on Messenger opt in."""
        for page_id in self.pages:
            customers = [
                f"{self.email(page_id, way, number)},{self.phone(page_id, way, number)}"
                for way in (*WAYS[:3], "staying")
                for number in range(STAYING if way == "staying" else self.leavers_of_way)
            ]
            path = self.folder / f"customers-{page_id}.csv"
            path.write_text("email,phone\n" + "\n".join(customers) + "\n")
            self.deliver(page_id, DAY)
            self.tokens[page_id], self.psids[page_id] = [], []
            with client_of(self.sandbox_url) as client:
                for _ in range(2 * self.leavers_of_way):
                    psid = str(self.act("message", page_id)["psid"])
                    prompt = OptInRequest(psid, "News", "https://example.com/news.png", "")
                    send_opt_in_request(client, page_id, prompt)
                    accepted = self.act("accept", page_id, psid)
                    self.tokens[page_id].append(str(accepted["subscription_token"]))
                    self.psids[page_id].append(psid)
        self.sandbox("settle")
        for page_id in self.pages:
            self.work(page_id)

    def leave(self) -> None:
        """Everyone leaves."""
        for page_id in self.pages:
            count = range(self.leavers_of_way)
            lines = [self.email(page_id, "list", number).upper() for number in count]
            (self.folder / f"leaving-{page_id}.csv").write_text("email\n" + "\n".join(lines) + "\n")
            table = [NewRequest(phone=self.phone(page_id, "table", number)) for number in count]
            command = [
                NewRequest(subscriber_token=self.tokens[page_id][number]) for number in count
            ]
            with self.database.transaction() as connection:
                opt_out_requests.receive(connection, page_id, table, "table")
                opt_out_requests.receive(connection, page_id, command, "command")
                for number in count:
                    email = self.email(page_id, "erasure", number)
                    erasure_requests.receive(connection, page_id=None, email=email)
            for psid in self.psids[page_id][self.leavers_of_way :]:
                self.act("stop", page_id, psid, with_token=self.chance.random() < 0.5)
        self.sandbox("settle")

    def carry_out(self) -> int:
        """Work until nothing is open, with kills, refusals and a restart; returns the rounds."""
        for number in range(1, MOST_ROUNDS + 1):
            self.refuse()
            for page_id in self.chance.sample(self.pages, len(self.pages)):
                kill_after = self.chance.uniform(0.8, 6) if number <= 3 else None
                self.work(page_id, kill_after, may_fail=number <= 3)
                if number == 2 and page_id == self.pages[0]:
                    self.restart()
            self.sandbox("settle")
            if not self.open_work():
                return number
        raise AssertionError(f"still open: {self.open_work()}")

    def refuse(self) -> None:
        """Let Meta refuse some calls of each kind."""
        for path in ("*/unsubscribe", "*/users", "*/notification_message_tokens"):
            self.sandbox("faults", path=path, nth=2, error={"code": 2, "is_transient": True})
            self.sandbox("faults", path=path, nth=5, reset="after")

    def restart(self) -> None:
        """Restart the database, as after a failover."""
        self.server.stop()
        self.server.start()

    def open_work(self) -> dict[str, int]:
        statements = {
            "events": "select count(*) from mm.webhook_event where processed_at is null"
            " and field like 'messaging_opt%'",
            "opt-outs": "select count(*) from mm.unsubscribe_request"
            " where state in ('received', 'sent')",
            "cleanups": "select count(*) from mm.suppression_sweep where found_at is not null",
            "erasures": "select count(*) from mm.erasure_request where state = 'received'",
            "receipts": "select count(*) from mm.erasure_receipt where kind <> 'file'"
            " and removed_at is null and accepted_at is null and outcome is null",
        }
        counts = {name: self.number(statement) for name, statement in statements.items()}
        return {name: count for name, count in counts.items() if count}

    def work(
        self, page_id: str, kill_after: float | None = None, *, may_fail: bool = False
    ) -> None:
        urls = (self.database.url, str(self.folder / "storage"), self.sandbox_url)
        arguments = (*urls, str(self.folder), page_id, ",".join(self.pages))
        command = [sys.executable, "-m", "tests.consent.leavers_work", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return
        assert may_fail or process.returncode == 0, errors

    def deliver(self, page_id: str, day: date) -> None:
        with client_of(self.sandbox_url) as client:
            deliver(self.database, self.storage, client, str(self.folder), page_id, day)

    def check(self) -> None:
        """No one who left is anywhere, and no one else is missing."""
        sendable = "select token from mm.sendable_token"
        with self.database.transaction() as connection:
            tokens = set(connection.scalars(text(sendable)))
        assert not tokens & {token for tokens in self.tokens.values() for token in tokens}
        audiences = httpx.get(f"{self.sandbox_url}/_sandbox/audiences", timeout=60).json()
        assert len(audiences) == len(self.pages)
        for audience in audiences:
            url = f"{self.sandbox_url}/_sandbox/audiences/{audience['audience_id']}/members"
            members = httpx.get(url, timeout=60).json()["keys"]
            assert len(members) == STAYING
        receipts = "select count(distinct request_id) from mm.erasure_receipt"
        assert self.number(receipts) == self.leavers_of_way * len(self.pages)
        left = 3 * self.leavers_of_way * len(self.pages)
        assert self.number("select count(*) from mm.suppression") >= left
        for page_id in self.pages:
            self.check_next_upload(page_id)

    def check_next_upload(self, page_id: str) -> None:
        """The list still contains everyone; its next payload contains only who stays."""
        self.deliver(page_id, NEXT_DAY)
        with self.database.transaction() as connection:
            payload = registry.current(connection, f"customers_{page_id}", NEXT_DAY)
        assert payload is not None
        people = pl.read_parquet(self.storage.url(payload.path))
        staying = {sha(self.email(page_id, "staying", number)) for number in range(STAYING)}
        assert set(people["EMAIL"]) == staying

    def durations(self) -> pl.DataFrame:
        """Seconds from each request to Meta's acceptance, by way."""
        statement = """
            select source, extract(epoch from settled_at - received_at)::float as seconds
            from mm.unsubscribe_request where state = 'confirmed'
        """
        with self.database.transaction() as connection:
            rows = connection.execute(text(statement)).all()
        return pl.DataFrame([tuple(row) for row in rows], schema=["way", "seconds"], orient="row")

    def number(self, statement: str) -> int:
        with self.database.transaction() as connection:
            return int(connection.scalar(text(statement)) or 0)

    def sandbox(self, lever: str, /, **body: Any) -> Any:
        answer = httpx.post(f"{self.sandbox_url}/_sandbox/{lever}", json=body, timeout=60)
        return answer.raise_for_status().json()

    def act(self, deed: str, page_id: str, psid: str | None = None, **more: Any) -> Any:
        return self.sandbox(f"people/{deed}", page_id=page_id, psid=psid, **more)

    def email(self, page_id: str, way: str, number: int) -> str:
        return f"{way}{number}@page{page_id}.example.com"

    def phone(self, page_id: str, way: str, number: int) -> str:
        place = self.pages.index(page_id) * 10 + (*WAYS, "staying").index(way)
        return f"+1212{place:03}{number:04}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own, because the trial restarts it."""
    server = EmbeddedPostgres(tmp_path / "postgres")
    yield server
    server.remove()


def run(
    server: EmbeddedPostgres, folder: Path, sandbox_url: str, port: int, *, leavers: int, pages: int
) -> Trial:
    httpx.post(f"{sandbox_url}/_sandbox/reset").raise_for_status()
    database = Database(server.start())
    upgrade(database)
    settings = ReceiverSettings(app_secrets=(APP_SECRET,), verify_token="unused")
    ids = [f"13414141412{number:04}" for number in range(pages)]
    of_way = leavers // len(WAYS) // pages
    storage = Storage(str(folder / "storage"))
    trial = Trial(server, database, storage, folder, sandbox_url, ids, of_way, random.Random(5))
    with serving(receiver_server(settings, database, host="127.0.0.1", port=port)):
        trial.open()
        began = time.monotonic()
        trial.leave()
        rounds = trial.carry_out()
        gone = time.monotonic() - began
        trial.check()
    seconds = trial.durations()["seconds"]
    print(
        f"{leavers:,} leavers, {pages} Pages: {rounds} rounds; to Meta's acceptance p50 "
        f"{seconds.quantile(0.5):.1f} s, p99 {seconds.quantile(0.99):.1f} s; all gone {gone:.1f} s"
    )
    database.dispose()
    return trial


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_everyone_who_leaves_is_gone_everywhere(
    server: EmbeddedPostgres, tmp_path: Path, sandbox_url: str, receiver_port: int
) -> None:
    leavers = int(os.environ.get("MM_TRIAL_LEAVERS", "10000"))
    pages = int(os.environ.get("MM_TRIAL_PAGES", "50"))
    run(server, tmp_path, sandbox_url, receiver_port, leavers=leavers, pages=pages)
