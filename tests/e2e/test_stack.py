"""The stack as a person starts, uses, kills and starts it again."""

import signal
import socket
import time

import httpx
import pytest

from mm_pipelines.local.demo import JOB
from tests.e2e.installation import Installation
from tests.e2e.running_stack import RunningStack

PARTITION = "acme_newsletter|2026-11-18"


def test_the_stack_starts_answers_and_stops_completely(
    installation: Installation, ports: list[str]
) -> None:
    stack = RunningStack(installation, ports)
    assert set(stack.children()) == {
        "sandbox",
        "receiver",
        "code-server",
        "dagster-webserver",
        "dagster-daemon",
    }
    receiver = f"http://127.0.0.1:{stack.ports['--receiver-port']}"
    assert httpx.get(f"{receiver}/readyz").status_code == httpx.codes.OK
    assert httpx.post(f"{receiver}/webhooks", content=b"{}").status_code == httpx.codes.FORBIDDEN
    ui = stack.ui
    assert ui.is_loaded()
    ui.close()
    second = installation.mm("up", "--sandbox", *ports)
    assert second.returncode == 1
    assert "a stack runs already" in second.stderr
    assert stack.stop() == 0
    assert installation.processes() == []


def test_a_taken_port_is_reported_with_the_option_that_changes_it(
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


def test_the_real_graph_api_is_refused_in_a_home_of_the_sandbox(
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
        "code location",
        "dagster-webserver",
        "dagster-daemon",
        "mm up",
        "postgres",
        "run worker",
    ],
)
def test_killing_any_process_and_restarting_loses_and_duplicates_nothing(
    installation: Installation, ports: list[str], victim: str
) -> None:
    stack = RunningStack(installation, ports)
    ui = stack.ui
    ui.launch_backfill(JOB, [PARTITION])
    give_up = time.monotonic() + 120
    while not any(run.status == "STARTED" for run in ui.unfinished_runs()):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    ui.close()
    stack.kill(victim)
    if victim == "mm up":
        assert stack.end() == -signal.SIGKILL
    elif victim == "run worker":
        # The stack lives on, and Dagster starts the run again.
        stack.wait_until_complete(PARTITION)
        assert stack.stop() == 0
    else:
        assert stack.end() == 1, "the stack went on without one of its parts"
        assert installation.processes() == []
    again = RunningStack(installation, ports)
    again.wait_until_complete(PARTITION)
    [row] = again.partitions()
    assert row["uploaded"] == row["processed"] == row["people"] > 0
    [audience] = again.sandbox("audiences")
    assert audience["members"] == row["people"]
    assert again.stop() == 0
    assert installation.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_stack_outlives_a_crash_recovery_of_the_embedded_server(
    installation: Installation, ports: list[str]
) -> None:
    up = RunningStack(installation, ports)
    ui = up.ui
    ui.launch_backfill(JOB, [PARTITION])
    give_up = time.monotonic() + 120
    while not any(run.status == "STARTED" for run in ui.unfinished_runs()):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    ui.close()
    postmaster = up.postmaster()
    backends = [child for child in postmaster.children() if "[local]" in " ".join(child.cmdline())]
    backends[0].kill()  # as the kernel does when memory runs out
    postmaster.suspend()  # a recovery of a large database
    time.sleep(20)
    postmaster.resume()
    up.wait_until_complete(PARTITION)
    assert up.process.poll() is None
    [row] = up.partitions()
    assert row["uploaded"] == row["processed"] == row["people"] > 0
    assert up.stop() == 0
    assert installation.processes() == []
