"""A STOP takes effect at once, however many runs are queued."""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.local.demo import JOB
from mm_pipelines.local.environment import Environment
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.signature import HEADER, sign
from tests.e2e.installation import Installation
from tests.e2e.running_stack import RunningStack

QUEUED_RUNS = int(os.environ.get("MM_TRIAL_QUEUED_RUNS", "500"))
PARTITIONS = QUEUED_RUNS * 3 // 2
PAGE_ID = "134141414124123"
TOKEN = "8123000000000001"

_CONFIG = """
start_date: {start}
pages:
  acme: {{page_id: "{page_id}", access_token_env: ACME_PAGE_TOKEN}}
audiences:
  newsletter:
    page: acme
    ad_account_id: "12348141984909088"
    name: Newsletter
    description: Made-up people
    source: {{path: "{{audience}}/{{day}}.csv"}}
"""

_QUEUED = "select count(*) from dagster.runs where status = 'QUEUED'"
_SENDABLE = "select count(*) from mm.sendable_token"


class Messenger:
    """A running stack, and a person who opts in and stops."""

    def __init__(self, installation: Installation, ports: list[str]) -> None:
        self.stack = RunningStack(installation, ports)
        environment = Environment.resolve(installation.variables)
        self.database = Database(environment.database_url())
        self._storage = Path(environment.storage_url)
        self._secret = environment.sandbox_secrets["MM_APP_SECRET"]
        self._receiver = f"http://127.0.0.1:{self.stack.ports['--receiver-port']}/webhooks"

    def sends(self, status: str | None) -> float:
        """Deliver an opt-in or STOP, and return the time of the receiver's answer."""
        optin = {"type": "notification_messages", "notification_messages_token": TOKEN}
        if status:
            optin["notification_messages_status"] = status
        now = int(datetime.now(UTC).timestamp() * 1000)
        person = {"sender": {"id": "5551"}, "recipient": {"id": PAGE_ID}, "timestamp": now}
        entry = {"id": PAGE_ID, "time": now, "messaging": [{**person, "optin": optin}]}
        body = json.dumps({"object": "page", "entry": [entry]}).encode()
        headers = {HEADER: sign(body, self._secret), "content-type": "application/json"}
        httpx.post(self._receiver, content=body, headers=headers).raise_for_status()
        return time.monotonic()

    def number(self, statement: str) -> int:
        with self.database.transaction() as connection:
            return int(connection.scalar(text(statement)) or 0)

    def published(self) -> bool:
        """Whether the sender's file contains the token."""
        manifest = self._storage / "sendable_tokens/acme/latest.json"
        if not manifest.exists():
            return False
        path = self._storage / json.loads(manifest.read_text())["path"]
        return TOKEN in pl.read_parquet(path)["token"].to_list()


@pytest.fixture
def messenger(installation: Installation, ports: list[str], tmp_path: Path) -> Iterator[Messenger]:
    start = datetime.now(UTC).date() - timedelta(days=PARTITIONS)
    config = tmp_path / "mm.yaml"
    config.write_text(_CONFIG.format(start=start, page_id=PAGE_ID))
    installation.variables["MM_CONFIG"] = str(config)
    messenger = Messenger(installation, ports)
    yield messenger
    messenger.database.dispose()
    messenger.stack.stop()


def seconds_until(holds: Callable[[], bool], since: float, *, limit: float) -> float:
    while not holds():
        assert time.monotonic() < since + limit, f"not within {limit:g} s"
        time.sleep(0.1)
    return time.monotonic() - since


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_stop_takes_effect_before_queued_runs(messenger: Messenger) -> None:
    opted_in = messenger.sends(None)
    seconds_until(messenger.published, opted_in, limit=300)
    days = [datetime.now(UTC).date() - timedelta(days=day) for day in range(1, PARTITIONS)]
    ui = messenger.stack.ui
    ui.launch_backfill(JOB, [f"newsletter|{day}" for day in days])
    ui.close()
    seconds_until(lambda: messenger.number(_QUEUED) >= QUEUED_RUNS, time.monotonic(), limit=1500)
    stopped = messenger.sends("STOP NOTIFICATIONS")
    excluded = seconds_until(lambda: messenger.number(_SENDABLE) == 0, stopped, limit=60)
    queued = messenger.number(_QUEUED)
    published = seconds_until(lambda: not messenger.published(), stopped, limit=300)
    print(f"excluded after {excluded:.2f} s, published after {published:.1f} s, {queued} queued")
    assert excluded < 1
    assert published < 30
