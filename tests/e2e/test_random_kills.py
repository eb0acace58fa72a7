"""One flow whose parts are killed at random instants: every event takes effect exactly once."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
import pytest

from mm_pipelines.local.demo import JOB
from mm_pipelines.local.environment import Environment
from mm_pipelines.webhooks.webhook_event import UPLOAD_STATUS
from tests.e2e.installation import Installation
from tests.e2e.ledger import Ledger
from tests.e2e.lists import Lists
from tests.e2e.running_stack import RunningStack
from tests.e2e.writers import Writers

VICTIMS = ["dagster-daemon", "code-server", "code location", "receiver", "run worker", "run worker"]
FURTHER_KILLS = 2
LONGEST_LIFE_SECONDS = 20.0
"""From asking for uploads to their last match status takes about as long."""

WORKER_SECONDS = 120.0
SETTLE_SECONDS = 900.0
"""A partition whose runs were killed again and again is asked for after minutes only."""

STILL_SECONDS = 45.0
"""Nothing runs, and neither a retry nor a backfill has begun: Dagster has given up."""


@pytest.fixture
def lists(installation: Installation, tmp_path: Path) -> Lists:
    lists = Lists.write(tmp_path / "lists")
    installation.variables["MM_CONFIG"] = str(lists.config)
    return lists


class Flow:
    """The lists on their way through stacks that follow each other, restarted after each kill."""

    def __init__(
        self, installation: Installation, ports: list[str], lists: Lists, chance: random.Random
    ) -> None:
        self.lists = lists
        self.relaunched: list[str] = []
        self._installation = installation
        self._ports = ports
        self._chance = chance
        self.stack = RunningStack(installation, ports)

    def __enter__(self) -> Self:
        """The first stack runs."""
        return self

    def __exit__(self, *_: object) -> None:
        if self.stack.process.poll() is None:
            self.stack.stop()

    @property
    def app_secret(self) -> str:
        """What webhooks are signed with."""
        made = json.loads((self._installation.home / "sandbox.json").read_text())["made"]
        return str(made["MM_APP_SECRET"])

    def launch(self, partitions: list[str]) -> None:
        """Ask for the uploads of some partitions."""
        ui = self.stack.ui
        ui.launch_backfill(JOB, partitions)
        ui.close()

    def redeliver(self) -> None:
        """Let Meta deliver some acknowledged webhooks once more."""
        wanted = {"last": self._chance.randint(1, 10), "reverse": self._chance.random() < 0.5}
        self.control("webhooks/redeliver", wanted)

    def kill(self, victim: str) -> None:
        """Kill a part at a random instant; start the stack again if that was its end."""
        time.sleep(self._chance.uniform(0, LONGEST_LIFE_SECONDS))
        if victim == "run worker":
            _wait_until("a run worker is at work", lambda: bool(self.stack.run_workers()))
            time.sleep(self._chance.uniform(0, 3))
            # It may have come to its end meanwhile; the next is as good.
            _wait_until("a run worker is at work", lambda: bool(self.stack.run_workers()))
            self.stack.kill(victim)
            return
        self.stack.kill(victim)
        assert self.stack.end() == 1, f"the stack went on without its {victim}"
        assert self._installation.processes() == []
        self.stack = RunningStack(self._installation, self._ports)

    def finish(self) -> None:
        """Wait until nothing is to come any more.

        Dagster starts a killed run again twice. One that was killed once more is for a person to
        launch, and that is done here: uploads are requested again if Dagster has given up.
        """
        ledger = self.ledger()
        give_up = time.monotonic() + SETTLE_SECONDS
        moved_at = time.monotonic()
        while awaited := self._awaited(ledger):
            assert time.monotonic() < give_up, f"still to come: {awaited}"
            assert self.stack.process.poll() is None, "the stack ended by itself"
            if {"runs that wait or work", "backfills under way"} & set(awaited):
                moved_at = time.monotonic()
            elif time.monotonic() > moved_at + STILL_SECONDS:
                given_up = ledger.not_uploaded(self.lists.partitions)
                assert not set(given_up) & set(self.relaunched), f"{given_up} do not end"
                if given_up:
                    self.launch(given_up)
                self.relaunched += given_up
                moved_at = time.monotonic()
            time.sleep(1)
        ledger.close()

    def control(self, path: str, value: object) -> None:
        """Call a control path of the sandbox."""
        url = f"http://127.0.0.1:{self.stack.ports['--sandbox-port']}/_sandbox/{path}"
        httpx.post(url, json=value).raise_for_status()

    def ledger(self) -> Ledger:
        """The stack's database."""
        return Ledger(Environment.resolve(self._installation.variables).database_url())

    def _awaited(self, ledger: Ledger) -> dict[str, int]:
        sandbox = self.stack.sandbox("idle")
        awaited = ledger.awaited(len(self.lists.partitions))
        for name in ("pending_matching", "pending_webhooks"):
            if sandbox[name]:
                awaited[name] = sandbox[name]
        return awaited


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_event_takes_effect_exactly_once_after_random_kills(
    installation: Installation, ports: list[str], lists: Lists, seed: int
) -> None:
    chance = random.Random(seed)
    victims = VICTIMS + chance.choices(VICTIMS, k=FURTHER_KILLS)
    partitions = lists.partitions.copy()
    chance.shuffle(victims)
    chance.shuffle(partitions)
    with Flow(installation, ports, lists, chance) as flow:
        with Writers(flow.stack.ports["--receiver-port"], flow.app_secret) as writers:
            # Every life of the stack has something to upload, so that each kill meets work.
            for life, victim in enumerate(victims):
                flow.launch(partitions[life :: len(victims)])
                flow.redeliver()
                flow.kill(victim)
        flow.finish()
        is_right(flow, writers)
        # Once more from the beginning, as an operator would: nothing is processed twice.
        ledger = flow.ledger()
        kept = ledger.kept()
        flow.redeliver()
        flow.launch(partitions)
        flow.finish()
        again = ledger.kept()
        ledger.close()
        assert [name for name, rows in kept.items() if rows != again[name]] == []
        is_right(flow, writers)
        assert flow.stack.stop() == 0
    assert installation.processes() == []


def is_right(flow: Flow, writers: Writers) -> None:
    """Everything was stored once, delivered once and counted once."""
    ledger = flow.ledger()
    assert ledger.faults() == {}
    batches = flow.stack.sandbox("calls")["batches"]
    assert ledger.count(UPLOAD_STATUS) == len(batches) > 0
    assert writers.unanswered > 0, "no message met a receiver that was away"
    assert ledger.count("messages") == ledger.writers() == writers.written > 0
    audiences = flow.stack.sandbox("audiences")
    final = ledger.final()
    assert len(audiences) == len(final)
    for audience in audiences:
        reported = final[audience["audience_id"]]
        sent = [b for b in batches if b["audience_id"] == audience["audience_id"]]
        assert audience["members"] == flow.lists.people == reported.people
        assert sum(batch["num_rows"] for batch in sent) == flow.lists.people
        assert reported.lower_bound <= audience["matched"] <= reported.upper_bound
    ledger.close()


def _wait_until(what: str, is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WORKER_SECONDS
    while not is_so():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.05)
