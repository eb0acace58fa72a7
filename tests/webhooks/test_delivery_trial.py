"""Webhooks as they come on a bad day, and the status that must come out right all the same.

Events are doubled, shuffled, held back and bundled; the receiver is killed and the database
restarted while they come; runs of any day compute in between.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.match_status import partition_status
from mm_pipelines.match_status.due import match_status_due
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade
from tests.servers import free_port
from tests.webhooks.meta import UPLOAD_STATUS, signed, upload_status
from tests.webhooks.test_process import receiver

AUDIENCES = ("acme_newsletter", "acme_loyalty", "globex_customers")
DAYS = [date(2026, 11, 1) + timedelta(days=days) for days in range(5)]
OVERDUE_AFTER = timedelta(hours=24)
SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Trial:
    """A ledger with as many batches as there will be events."""

    database: Database
    chance: random.Random
    events: int

    def deliver_batches(self) -> list[dict[str, Any]]:
        """Record the batches, and return an entry of a webhook for each."""
        entries, batches = [], []
        for number in range(self.events):
            place = self.chance.randrange(len(AUDIENCES))
            rows = self.chance.choice([10_000, 10_000, 10_000, self.chance.randrange(1, 10_000)])
            batches.append(
                {
                    "audience": AUDIENCES[place],
                    "day": self.chance.choice(DAYS),
                    "session_id": number + 1,
                    "rows": rows,
                }
            )
            value = upload_status(
                rows, custom_audience_id=place + 1, approximate_count_lower_bound=number
            )
            change = {"field": UPLOAD_STATUS, "value": value}
            entries.append({"id": "134141414124123", "time": 1763000000, "changes": [change]})
        with self.database.transaction() as connection:
            for place, audience in enumerate(AUDIENCES):
                connection.execute(
                    text("insert into mm.custom_audience values (:audience, :id, '1', '1', 'x')"),
                    {"audience": audience, "id": str(place + 1)},
                )
            connection.execute(
                text(
                    "insert into mm.upload_batch (audience, day, session_id, batch_seq, row_count, "
                    "content_sha256, status, acknowledged_at) values "
                    "(:audience, :day, :session_id, 1, :rows, 'x', 'acknowledged', now())"
                ),
                batches,
            )
        return entries

    def posts(self, entries: list[dict[str, Any]]) -> list[bytes]:
        """Bodies with every entry once or more often, in some order, bundled somehow."""
        doubled = [e for e in entries for _ in range(self.chance.choice([1, 1, 1, 2, 3]))]
        self.chance.shuffle(doubled)
        bodies = []
        while doubled:
            size = self.chance.choice([1, 1, 2, 20])
            bundle, doubled = doubled[:size], doubled[size:]
            bodies.append(json.dumps({"object": "page", "entry": bundle}).encode())
        return bodies

    def computes_some_day(self) -> None:
        """The run of a day while webhooks still come; it may find the database away."""
        audience, day = self.chance.choice(AUDIENCES), self.chance.choice(DAYS)
        try:
            self._refresh(audience, day)
        except SQLAlchemyError:
            time.sleep(0.05)

    def computes_what_is_due(self) -> None:
        """What the sensor asks for, until it asks for nothing."""
        for _ in range(1_000):
            with self.database.transaction() as connection:
                due = match_status_due(
                    connection,
                    AUDIENCES,
                    first_day=DAYS[0],
                    overdue_after=OVERDUE_AFTER,
                    limit=50,
                )
            if not due.statuses:
                return
            for status in due.statuses:
                self._refresh(status.audience, status.day)
        raise AssertionError("the sensor asks for ever")

    def _refresh(self, audience: str, day: date) -> None:
        with self.database.transaction() as connection:
            partition_status.refresh(
                connection, audience, day, overdue_after=OVERDUE_AFTER, run_id="trial"
            )

    def scalar(self, statement: str) -> Any:
        """One value."""
        with self.database.transaction() as connection:
            return connection.scalar(text(statement))


class Meta:
    """Delivers each body until it is answered with 200."""

    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self._url = f"http://127.0.0.1:{port}/webhooks"
        self._bodies = bodies
        self._threads = [threading.Thread(target=self._deliver) for _ in range(SIDE_BY_SIDE)]
        for thread in self._threads:
            thread.start()

    def is_done(self) -> bool:
        """Whether everything was answered."""
        return not any(thread.is_alive() for thread in self._threads)

    def _deliver(self) -> None:
        with httpx.Client(timeout=30) as client:
            while self._bodies:
                try:
                    content = self._bodies.pop()
                except IndexError:
                    return
                while not self._is_answered(client, content):
                    time.sleep(0.02)

    def _is_answered(self, client: httpx.Client, content: bytes) -> bool:
        try:
            answer = client.post(self._url, content=content, headers=signed(content))
        except httpx.TransportError:
            return False
        assert answer.status_code in (200, 503)
        return answer.status_code == 200


def run_trial(trial: Trial, log: Path, *, kills: int, restart: Callable[[], None]) -> None:
    """Deliver everything through a receiver that is killed again and again."""
    bodies = trial.posts(trial.deliver_batches())
    share = len(bodies) // (kills + 1)
    port = free_port()
    meta = Meta(port, bodies)
    for life in range(kills, -1, -1):
        with receiver(trial.database.url, port, log) as process:
            while not meta.is_done() and (life == 0 or len(bodies) > life * share):
                trial.computes_some_day()
            if life:
                process.kill()
                restart()
    trial.computes_what_is_due()
    stored = "select count(*) from mm.webhook_event"
    assert trial.scalar(stored) == trial.events
    assert trial.scalar(f"{stored} where processed_at is null or left_over_at is not null") == 0
    reported = "select count(distinct reported_event_id) from mm.upload_batch"
    assert trial.scalar(reported) == trial.events
    assert trial.scalar("select array_agg(distinct status) from mm.match_status") == ["complete"]
    processed = trial.scalar("select sum(rows_processed) from mm.match_status")
    assert processed == trial.scalar("select sum(row_count) from mm.upload_batch")


def test_a_bad_day_of_webhooks_ends_in_the_right_status(database: Database, tmp_path: Path) -> None:
    def restart() -> None:
        with database.transaction() as connection:
            connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
            )

    trial = Trial(database, random.Random(1), events=400)
    run_trial(trial, tmp_path / "log", kills=2, restart=restart)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "home")
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_events_with_restarts_of_everything_are_each_stored_once(
    own_server: EmbeddedPostgres, tmp_path: Path, seed: int
) -> None:
    def restart() -> None:
        own_server.stop()
        own_server.start()

    database = Database(own_server.url)
    upgrade(database)
    trial = Trial(database, random.Random(seed), events=10_000)
    run_trial(trial, tmp_path / "log", kills=8, restart=restart)
    database.dispose()
