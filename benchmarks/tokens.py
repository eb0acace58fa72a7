"""Pulling and merging tokens, against a plain script that takes the fastest path there is.

The part about a large Page takes two million tokens, and ten with ``MM_BENCH_LARGE=1``: that many
take some ten minutes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import httpx
import polars as pl
from adbc_driver_postgresql import dbapi
from sqlalchemy import text

from benchmarks.figure import Figure
from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade

PAGE_ID = "134141414124123"
MILLION = 1_000_000
LARGE = 10 if os.environ.get("MM_BENCH_LARGE") else 2
"""Millions of tokens of the large Page."""

RUNS = 3

# Times stay the numbers they are: the plain script cares for nothing.
_PLAIN_ROW = pl.Struct(
    {
        "notification_messages_token": pl.String(),
        "recipient_id": pl.String(),
        "topic_title": pl.String(),
        "notification_messages_reoptin": pl.String(),
        "user_token_status": pl.String(),
        "notification_messages_timezone": pl.String(),
        "creation_timestamp": pl.Int64(),
        "token_expiry_timestamp": pl.Int64(),
        "next_eligible_time": pl.Int64(),
        "custom_audience_ids": pl.List(pl.String()),
    }
)
_PLAIN_SCHEMA = {
    "data": pl.List(_PLAIN_ROW),
    "paging": pl.Struct({"cursors": pl.Struct({"after": pl.String()}), "next": pl.String()}),
}
_PLAIN_COLUMNS = [field.name for field in _PLAIN_ROW.fields]
_PLAIN_TYPES = ["text"] * 6 + ["bigint"] * 3 + ["text[]"]
_PLAIN_DEFINITION = ", ".join(map(" ".join, zip(_PLAIN_COLUMNS, _PLAIN_TYPES, strict=True)))
PLAIN_TABLE = (
    f"create table plain_token ({_PLAIN_DEFINITION}, primary key (notification_messages_token))"
)
_PLAIN_MERGE = f"""
insert into plain_token
select distinct on (notification_messages_token) * from plain_staging
order by notification_messages_token
on conflict (notification_messages_token) do update
set {", ".join(f"{column} = excluded.{column}" for column in _PLAIN_COLUMNS[1:])}
where ({", ".join(f"plain_token.{column}" for column in _PLAIN_COLUMNS[1:])})
    is distinct from ({", ".join(f"excluded.{column}" for column in _PLAIN_COLUMNS[1:])})
"""

_OUR_PULL = """
import json, sys, time
from benchmarks.figure import peak_megabytes
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.tokens.pull import pull_tokens
from mm_pipelines.warehouse.database import Database
url, graph, page_id = sys.argv[1:]
with GraphApiClient("page-token", base_url=graph) as client:
    begun = time.perf_counter()
    pull_tokens(client, Database(url), page_id, removal_share=0.3)
    seconds = time.perf_counter() - begun
print(json.dumps([seconds, peak_megabytes()]))
"""


def run() -> list[Figure]:
    """A million tokens pulled first and again, then a large Page, and the views counted."""
    with tempfile.TemporaryDirectory(prefix="mm-bench-") as scratch:
        server = EmbeddedPostgres(Path(scratch))
        database = Database(server.start())
        try:
            upgrade(database)
            return [*_against_the_script(database), *_large_page(database)]
        finally:
            database.dispose()
            server.remove()


def _against_the_script(database: Database) -> Iterator[Figure]:
    first: dict[str, list[float]] = {"ours": [], "plain": []}
    again: dict[str, list[float]] = {"ours": [], "plain": []}
    with _stub(MILLION) as url:
        for _ in range(RUNS):
            _empty(database)
            # In turns, so that both see the same machine.
            first["plain"].append(plain_pull(database, url))
            first["ours"].append(_our_pull(database, url)[0])
            again["plain"].append(plain_pull(database, url))
            again["ours"].append(_our_pull(database, url)[0])
    for name, seconds in (("a first", first), ("an unchanged", again)):
        yield Figure(
            f"{name} pull of 1 M tokens",
            statistics.median(seconds["ours"]),
            "s",
            against=statistics.median(seconds["plain"]),
            peer="plain script",
            target="at most 1.5 times",
        )


def _large_page(database: Database) -> Iterator[Figure]:
    _empty(database)
    with _stub(LARGE * MILLION) as url:
        for name in ("a first", "an unchanged"):
            seconds, peak = _our_pull(database, url)
            yield Figure(f"{name} pull of {LARGE} M tokens", seconds, "s")
            yield Figure(
                "its peak memory", peak, "MB", against=1536, peer="limit", target="below it"
            )
            for view in ("deduplicated_token", "sendable_token"):
                yield Figure(
                    f"count of {view} right after it",
                    _seconds_to_count(database, view),
                    "s",
                    against=5 * LARGE / 10,
                    peer="limit, 5 s at 10 M",
                    target="below it",
                )


def _seconds_to_count(database: Database, view: str) -> float:
    with database.transaction() as connection:
        begun = perf_counter()
        connection.scalar(text(f"select count(*) from mm.{view}"))
        return perf_counter() - begun


def _empty(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("drop table if exists plain_token"))
        connection.execute(text(PLAIN_TABLE))
        connection.execute(text("truncate mm.subscription_token, mm.token_change, mm.token_pull"))


def _our_pull(database: Database, url: str) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a pull in a process of its own, start-up not counted."""
    arguments = [sys.executable, "-c", _OUR_PULL, database.url, url, PAGE_ID]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def plain_pull(database: Database, url: str) -> float:
    begun = perf_counter()
    with httpx.Client(base_url=url) as client, dbapi.connect(database.url) as connection:
        cursor = connection.cursor()
        cursor.execute(f"create unlogged table plain_staging ({_PLAIN_DEFINITION})")
        for frame in _plain_frames(client):
            cursor.adbc_ingest("plain_staging", frame, mode="append")
        cursor.execute(_PLAIN_MERGE)
        cursor.execute("drop table plain_staging")
        connection.commit()
    return perf_counter() - begun


def _plain_frames(client: httpx.Client) -> Iterator[pl.DataFrame]:
    gathered: list[pl.DataFrame] = []
    after: str | None = "0"
    while after is not None:
        answer = client.get(
            f"/{PAGE_ID}/notification_message_tokens", params={"limit": 1000, "after": after}
        )
        listing = pl.read_json(answer.content, schema=_PLAIN_SCHEMA)
        gathered.append(listing["data"].explode().struct.unnest())
        paging = listing["paging"][0]
        after = paging["cursors"]["after"] if paging["next"] else None
        if len(gathered) == 50 or after is None:
            yield pl.concat(gathered)
            gathered = []


@contextmanager
def _stub(tokens: int) -> Iterator[str]:
    arguments = [sys.executable, "-m", "benchmarks.token_stub", str(tokens)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
