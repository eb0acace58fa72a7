"""The demo, whole: what a newcomer sees first."""

import contextlib
import json
import signal
import subprocess
import time
from typing import Any

import pytest

from tests.e2e.installation import Installation


def result_of(output: str) -> dict[str, Any]:
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("RESULT ")
    result: dict[str, Any] = json.loads(last.removeprefix("RESULT "))
    return result


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_is_idempotent_and_its_counts_agree(
    installation: Installation,
) -> None:
    first = installation.mm("demo")
    assert first.returncode == 0, first.stdout + first.stderr
    result = result_of(first.stdout)
    assert result["partitions"] == 9
    assert result["audiences"] == 3
    assert result["rows_read"] == (
        result["people_hashed"] + result["rows_rejected"] + result["rows_merged"]
    )
    assert result["rows_uploaded"] == result["rows_processed"] > 0
    assert result["tokens_sendable"] <= result["tokens_pulled"] - result["duplicates_removed"]
    assert installation.processes() == []

    second = installation.mm("demo")
    assert second.returncode == 0, second.stdout + second.stderr
    assert result_of(second.stdout) == result
    assert installation.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [0.0, 2.0, 6.0, 12.0, 20.0])
def test_ctrl_c_at_any_moment_of_the_demo_leaves_nothing_running(
    installation: Installation, seconds: float
) -> None:
    demo = installation.begin("demo", errors=subprocess.PIPE)
    assert demo.stdout is not None
    assert demo.stdout.readline().startswith("·")
    with contextlib.suppress(subprocess.TimeoutExpired):
        demo.wait(seconds)
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=120)
    assert demo.returncode != 0
    assert "Traceback" not in errors
    assert installation.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_demo_at_once_is_refused_in_a_sentence(installation: Installation) -> None:
    first = installation.begin("demo")
    while not (installation.home / "logs").exists():
        assert first.poll() is None
        time.sleep(0.2)
    second = installation.mm("demo")
    assert (second.returncode, "a stack runs already" in second.stderr) == (1, True)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=120)
    assert installation.processes() == []
