"""The stack as a person starts, uses, kills and starts it again."""

import json
import signal
import socket
import time
from typing import Any

import httpx
import psutil
import pytest

from mm_pipelines.local.dagster_ui import DagsterUi
from mm_pipelines.local.demo import JOB
from mm_pipelines.local.stack import LOCATION
from tests.e2e.installation import Installation

PARTITION = "acme_newsletter|2026-11-18"


class Up:
    """A running `mm up --sandbox`."""

    def __init__(self, installation: Installation, ports: list[str]) -> None:
        self.installation = installation
        self.ports = dict(zip(ports[::2], ports[1::2], strict=True))
        self.process = installation.begin("up", "--sandbox", *ports)
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Stop it with"):
                return
        raise AssertionError(f"mm up ended:\n{self.said}")

    @property
    def ui(self) -> DagsterUi:
        return DagsterUi(f"http://127.0.0.1:{self.ports['--port']}", LOCATION)

    def children(self) -> dict[str, psutil.Process]:
        record = json.loads((self.installation.home / "processes.json").read_text())
        return {entry["name"]: psutil.Process(entry["pid"]) for entry in record}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode

    def upload(self, partition: str) -> None:
        """One partition through the backfill daemon, until its match status is complete."""
        ui = self.ui
        ui.launch_backfill(JOB, [partition])
        self.wait_until_complete(partition)
        ui.close()

    def wait_until_complete(self, partition: str) -> None:
        give_up = time.monotonic() + 240
        while time.monotonic() < give_up:
            states = {f"{row['audience']}|{row['day']}": row["status"] for row in self.known()}
            if states.get(partition) == "complete":
                return
            time.sleep(2)
        raise AssertionError(f"{partition} is not complete: {states}")

    def known(self) -> list[dict[str, Any]]:
        shown = self.installation.mm("status", "--json")
        assert shown.returncode == 0, shown.stderr
        rows: list[dict[str, Any]] = json.loads(shown.stdout)["partitions"]
        return rows

    def sandbox(self, path: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.ports['--sandbox-port']}/_sandbox/{path}").json()


def test_the_stack_comes_up_answers_and_leaves_nothing_running(
    installation: Installation, ports: list[str]
) -> None:
    up = Up(installation, ports)
    assert set(up.children()) == {
        "sandbox",
        "receiver",
        "code-server",
        "dagster-webserver",
        "dagster-daemon",
    }
    receiver = f"http://127.0.0.1:{up.ports['--receiver-port']}"
    assert httpx.get(f"{receiver}/readyz").status_code == httpx.codes.OK
    assert httpx.post(f"{receiver}/webhooks", content=b"{}").status_code == httpx.codes.FORBIDDEN
    ui = up.ui
    assert ui.is_loaded()
    ui.close()
    second = installation.mm("up", "--sandbox", *ports)
    assert second.returncode == 1
    assert "a stack runs already" in second.stderr
    assert up.stop() == 0
    assert installation.processes() == []


def test_a_port_that_is_taken_is_named_with_the_option_that_helps(
    installation: Installation, ports: list[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(ports[3])))
        taken.listen()
        refused = installation.mm("up", "--sandbox", *ports)
    assert refused.returncode == 1
    assert f"port {ports[3]} on 127.0.0.1 is taken" in refused.stderr
    assert "--receiver-port" in refused.stderr
    assert installation.processes() == []


def test_the_real_graph_api_is_not_mixed_into_the_sandboxs_state(
    installation: Installation,
) -> None:
    assert not installation.home.exists()
    installation.home.mkdir()
    (installation.home / "sandbox.json").write_text('{"url": "http://127.0.0.1:1", "made": {}}')
    refused = installation.mm("up")
    assert refused.returncode == 1
    assert "--sandbox" in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "victim",
    [
        "sandbox",
        "receiver",
        "code-server",
        "dagster-webserver",
        "dagster-daemon",
        "mm up",
        "postgres",
        "run worker",
    ],
)
def test_kill_any_one_process_and_up_again_loses_and_doubles_nothing(
    installation: Installation, ports: list[str], victim: str
) -> None:
    up = Up(installation, ports)
    ui = up.ui
    ui.launch_backfill(JOB, [PARTITION])
    give_up = time.monotonic() + 120
    while not any(run.status == "STARTED" for run in ui.unfinished_runs()):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    ui.close()
    kill(up, victim)
    if victim == "mm up":
        assert up.end() == -signal.SIGKILL
    elif victim == "run worker":
        # The stack lives on, and Dagster starts the run again.
        up.wait_until_complete(PARTITION)
        assert up.stop() == 0
    else:
        assert up.end() == 1, "the stack went on without one of its parts"
        assert installation.processes() == []
    again = Up(installation, ports)
    again.wait_until_complete(PARTITION)
    [row] = again.known()
    assert row["uploaded"] == row["processed"] == row["people"] > 0
    [audience] = again.sandbox("audiences")
    assert audience["members"] == row["people"]
    assert again.stop() == 0
    assert installation.processes() == []


def kill(up: Up, victim: str) -> None:
    if victim == "mm up":
        up.process.kill()
    elif victim == "postgres":
        pid_file = up.installation.home / "postgres/data/postmaster.pid"
        psutil.Process(int(pid_file.read_text().split()[0])).kill()
    elif victim == "run worker":
        workers = [
            process
            for process in up.children()["code-server"].children(recursive=True)
            if "multiprocessing" in " ".join(process.cmdline())
        ]
        workers[-1].kill()
    else:
        up.children()[victim].kill()
