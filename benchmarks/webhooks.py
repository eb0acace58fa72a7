"""The receiver under load, durable to the disk, and the sensor's look at a large table."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from time import perf_counter

from sqlalchemy import text

from benchmarks.figure import Figure, median_seconds
from benchmarks.webhook_client import SECRET, VERIFY_TOKEN
from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.match_status.due import match_status_due, token_pulls_due
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade
from mm_pipelines.webhooks import webhook_event
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import run as serve
from mm_pipelines.webhooks.webhook_event import WebhookEvent

POSTS = 10_000
CONNECTIONS = 16
PROCESSED = 1_000_000
PENDING = 1_000

_FILL = text("""
insert into mm.webhook_event
    (dedupe_key, value_key, object, field, page_id, custom_audience_id, payload, processed_at)
select 'p' || n, 'v' || n, 'page', :field, '1', '100', '{"num_rows": 10000}',
       case when n > :pending then now() end
from generate_series(1, :processed + :pending) as n
""")

_LEDGER = text("""
insert into mm.upload_batch
    (audience, day, session_id, batch_seq, row_count, content_sha256, status, acknowledged_at,
     sent_at, reported_event_id)
select 'bench', date '2026-01-01' + n / 100, n, 1, 10000, 'x', 'acknowledged', now(), now(),
       case when n > :unreported then n + :pending end
from generate_series(1, 36500) as n
""")


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mm-bench-") as folder:
        server = EmbeddedPostgres(Path(folder))
        database = Database(server.start())
        try:
            upgrade(database)
            return [*_receiver(database), _tick(database)]
        finally:
            database.dispose()
            server.stop()


def _receiver(database: Database) -> Iterator[Figure]:
    with _serving(database) as port:
        _post(port, CONNECTIONS, 500, changes=1)  # warms both sides
        seconds, latencies = _post(port, CONNECTIONS, POSTS, changes=1)
        large, _ = _post(port, 1, 5, changes=1000)
    yield Figure(
        "signed POSTs, durable, 16 connections",
        POSTS / seconds,
        "posts/s",
        against=_commits_alone(database),
        peer="one commit a POST",
        target="at least 1,000",
    )
    yield Figure(
        "their 99th percentile",
        statistics.quantiles(latencies, n=100)[98] * 1000,
        "ms",
        target="under 250",
    )
    yield Figure("a POST of 1,000 changes", large / 5, "s", target="under 1")


def _tick(database: Database) -> Figure:
    with database.transaction() as connection:
        connection.execute(text("truncate mm.webhook_event restart identity cascade"))
        connection.execute(
            text("insert into mm.custom_audience values ('bench', '100', '1', '1', 'bench')")
        )
        connection.execute(
            _FILL,
            {
                "field": webhook_event.UPLOAD_STATUS,
                "processed": PROCESSED,
                "pending": PENDING,
            },
        )
        connection.execute(_LEDGER, {"unreported": PENDING, "pending": PENDING})
        connection.execute(text("analyze mm.webhook_event"))
        connection.execute(text("analyze mm.upload_batch"))

    def tick() -> None:
        with database.transaction() as connection:
            due = match_status_due(
                connection,
                ["bench"],
                first_day=date(2026, 1, 1),
                overdue_after=timedelta(hours=24),
                limit=200,
            )
            token_pulls_due(connection, ["1"], at_most_every=timedelta(minutes=15))
        if not due.statuses:
            raise RuntimeError("the sensor saw nothing")

    tick()
    return Figure(
        "the sensor's reading, 1,000,000 processed and 1,000 pending",
        median_seconds(tick, runs=9) * 1000,
        "ms",
        target="under 50",
    )


def _commits_alone(database: Database, posts: int = 500) -> float:
    """Events a second of a receiver that makes a commit for each, without HTTP."""
    begun = perf_counter()
    for number in range(posts):
        event = WebhookEvent(f"k{number}", "v", "page", "field", None, None, None, "{}")
        with database.transaction() as connection:
            webhook_event.insert(connection, [event])
    return posts / (perf_counter() - begun)


def _post(port: int, connections: int, posts: int, *, changes: int) -> tuple[float, list[float]]:
    arguments = map(str, (port, connections, posts, changes))
    client = [sys.executable, "-m", "benchmarks.webhook_client", *arguments]
    measured = json.loads(subprocess.run(client, check=True, capture_output=True).stdout)
    return measured["seconds"], measured["latencies"]


@contextmanager
def _serving(database: Database, port: int = 18080) -> Iterator[int]:
    """The receiver as a process of its own."""
    command = [sys.executable, "-m", "benchmarks.webhooks", database.url, str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    serve(
        ReceiverSettings(app_secrets=(SECRET,), verify_token=VERIFY_TOKEN),
        Database(sys.argv[1]),
        host="127.0.0.1",
        port=int(sys.argv[2]),
    )
