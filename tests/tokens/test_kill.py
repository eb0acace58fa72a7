"""Pulls that are killed."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from tests.tokens.conftest import PAGE_ID

_PULL = """
import sys
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.tokens.pull import pull_tokens
from mm_pipelines.warehouse.database import Database
print("begins", flush=True)
url, graph, page_id = sys.argv[1:]
pull_tokens(GraphApiClient("t", base_url=graph), Database(url), page_id, removal_share=0.3)
"""


@dataclass(frozen=True)
class Trial:
    database_url: str
    sandbox_url: str

    def pull(self, *, kill_after: float | None = None) -> float:
        """Pull in a process of its own; returns how long it took from its beginning."""
        arguments = [sys.executable, "-c", _PULL, self.database_url, self.sandbox_url, PAGE_ID]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            begun = time.monotonic()
            if kill_after is not None:
                time.sleep(kill_after)
                process.send_signal(signal.SIGKILL)
            process.wait()
        return time.monotonic() - begun


def empty(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("truncate mm.subscription_token, mm.token_change, mm.token_pull"))


def counts(database: Database) -> tuple[int, int, int]:
    """Tokens, events, and pulls that were finished."""
    with database.transaction() as connection:
        row = connection.execute(
            text("""
                select (select count(*) from mm.subscription_token),
                    (select count(*) from mm.token_event),
                    (select count(*) from mm.token_pull where complete)
            """)
        ).one()
    return (row[0], row[1], row[2])


def staging_tables(database: Database) -> int:
    with database.transaction() as connection:
        found = connection.scalar(
            text("select count(*) from pg_class where relname = 'listed_token'")
        )
    return int(found or 0)


def kill_pulls(database: Database, trial: Trial, *, kills: int) -> None:
    seconds = trial.pull()
    whole = counts(database)
    assert whole[0] == whole[1] > 0
    for _ in range(kills):
        empty(database)
        trial.pull(kill_after=random.uniform(0, seconds))
        give_up = time.monotonic() + 10
        while staging_tables(database) and time.monotonic() < give_up:
            time.sleep(0.05)  # the server notices a dead client in its own time
        assert staging_tables(database) == 0
        assert counts(database) in ((0, 0, 0), whole)
    trial.pull()
    assert counts(database)[:2] == whole[:2]


@pytest.fixture
def trial(database_url: str, sandbox_url: str) -> Iterator[Trial]:
    # Slow answers, so that kills also fall between two pages.
    rule = {"path": "*/notification_message_tokens", "latency_seconds": 0.05, "times": None}
    httpx.post(f"{sandbox_url}/_sandbox/faults", json=rule).raise_for_status()
    yield Trial(database_url, sandbox_url)
    httpx.delete(f"{sandbox_url}/_sandbox/faults").raise_for_status()


def test_a_pull_killed_anywhere_leaves_the_table_as_before_or_after(
    database: Database, trial: Trial
) -> None:
    kill_pulls(database, trial, kills=2)


@pytest.mark.slow
def test_many_pulls_killed_anywhere_leave_the_table_as_before_or_after(
    database: Database, trial: Trial
) -> None:
    kill_pulls(database, trial, kills=60)
