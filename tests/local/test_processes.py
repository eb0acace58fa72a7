import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mm_pipelines.local.processes import (
    AlreadyRunningError,
    ChildEndedError,
    NotReadyError,
    ProcessGroup,
    Stopped,
)

PYTHON = sys.executable

# Starts a child of its own, says so, and goes on for ever.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""

# A stack in a process of its own, to be killed or interrupted from outside.
STACK = """
import os, sys, time
from pathlib import Path
from mm_pipelines.local.processes import ProcessGroup, Stopped
home = Path(sys.argv[1])
try:
    with ProcessGroup(home) as group:
        group.start("sleeper", [sys.executable, "-c", sys.argv[2]], dict(os.environ))
        print("up", flush=True)
        while True:
            group.check()
            time.sleep(0.05)
except Stopped as stopped:
    print(stopped, flush=True)
"""


def environment() -> dict[str, str]:
    return dict(os.environ)


def wait_for(log: Path, lines: int = 1) -> list[str]:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        found = log.read_text().splitlines() if log.exists() else []
        if len(found) >= lines:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{log.name} stayed short")


def watch(group: ProcessGroup) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        group.check()
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stack(home: Path, child: str = PARENT) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [PYTHON, "-c", STACK, str(home), child], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    return started


def test_leaving_the_group_ends_the_children_and_their_children(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        group.start("parent", [PYTHON, "-c", PARENT], environment())
        grandchild = int(wait_for(group.log("parent"))[0])
        assert alive(grandchild)
    assert not alive(grandchild)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path, stop_seconds=0.5) as group:
        group.start("stubborn", [PYTHON, "-c", STUBBORN], environment())
        child = int(wait_for(group.log("stubborn"))[0])
        assert alive(child)
    assert not alive(child)


def test_a_child_that_died_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        group.start("frail", [PYTHON, "-c", "print('my last words'); exit(3)"], environment())
        with pytest.raises(ChildEndedError, match=r"(?s)frail .*exit status 3.*my last words"):
            watch(group)


def test_a_killed_child_is_reported_with_the_signal(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        group.start("parent", [PYTHON, "-c", PARENT], environment())
        grandchild = int(wait_for(group.log("parent"))[0])
        psutil.Process(grandchild).parent().kill()  # type: ignore[union-attr]
        with pytest.raises(ChildEndedError, match="SIGKILL"):
            watch(group)
        assert alive(grandchild)
    assert not alive(grandchild), "the dead child's own child was left behind"


def test_a_child_that_lost_what_it_works_in_is_reported(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        log = group.log("parent")
        group.start(
            "parent",
            [PYTHON, "-c", PARENT],
            environment(),
            ready=lambda: bool(log.read_text()),
            works_in_child=True,
        )
        group.check()
        psutil.Process(int(wait_for(log)[0])).kill()
        with pytest.raises(ChildEndedError, match="the worker process of parent"):
            watch(group)


def test_a_child_that_dies_while_it_starts_is_reported_at_once(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group, pytest.raises(ChildEndedError, match="exit status 7"):
        group.start("frail", [PYTHON, "-c", "exit(7)"], environment(), ready=lambda: False)


def test_a_child_that_never_gets_ready_is_reported_by_name(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group, pytest.raises(NotReadyError, match="slow was not ready"):
        group.start(
            "slow",
            [PYTHON, "-c", "import time; time.sleep(600)"],
            environment(),
            ready=lambda: False,
            seconds=0.3,
        )


def test_a_failed_command_is_an_error(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as group:
        group.run("good", [PYTHON, "-c", "pass"], environment())
        group.check()
        with pytest.raises(ChildEndedError, match="bad failed"):
            group.run("bad", [PYTHON, "-c", "exit(1)"], environment())


def test_two_groups_cannot_share_a_home(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path), pytest.raises(AlreadyRunningError, match="set MM_HOME"):
        ProcessGroup(tmp_path).__enter__()
    with ProcessGroup(tmp_path):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_in_order(tmp_path: Path, number: signal.Signals) -> None:
    started = stack(tmp_path)
    grandchild = int(wait_for(tmp_path / "logs/sleeper.log")[0])
    started.send_signal(number)
    output, _ = started.communicate(timeout=30)
    assert output == f"{number.name}\n"
    assert not alive(grandchild)


def test_the_next_group_ends_the_children_of_a_killed_group(tmp_path: Path) -> None:
    started = stack(tmp_path)
    grandchild = int(wait_for(tmp_path / "logs/sleeper.log")[0])
    started.kill()
    started.communicate()
    assert alive(grandchild)
    with ProcessGroup(tmp_path):
        assert not alive(grandchild)


def test_the_next_group_ends_the_grandchildren_of_a_killed_group(
    tmp_path: Path,
) -> None:
    started = stack(tmp_path)
    grandchild = int(wait_for(tmp_path / "logs/sleeper.log")[0])
    child = psutil.Process(grandchild).parent()
    assert child is not None
    started.kill()
    started.communicate()
    child.kill()
    with ProcessGroup(tmp_path):
        assert not alive(grandchild)


# Leads a session, starts a process in it, and exits: the session's id is no process id any more.
DAEMON = """
import os, subprocess, sys
os.setsid()
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(os.getpid(), child.pid, flush=True)
"""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("leader_is_alive", [True, False])
def test_a_daemon_whose_session_id_was_once_a_childs_is_not_ended(
    tmp_path: Path, leader_is_alive: bool
) -> None:
    if leader_is_alive:
        daemon = subprocess.Popen(["sleep", "60"], start_new_session=True)
        session, survivor = daemon.pid, daemon.pid
    else:
        shown = subprocess.run([PYTHON, "-c", DAEMON], capture_output=True, check=True, text=True)
        session, survivor = map(int, shown.stdout.split())
    try:
        leaders = [{"name": "sleeper", "pid": session}]
        record = {"group": "an earlier group", "boot": boot_id(), "leaders": leaders}
        (tmp_path / "processes.json").write_text(json.dumps(record))
        with ProcessGroup(tmp_path):
            assert alive(survivor)
    finally:
        psutil.Process(survivor).kill()
        if leader_is_alive:
            daemon.wait()


def test_the_record_of_an_older_version_ends_nothing(tmp_path: Path) -> None:
    record = [{"name": "sleeper", "pid": os.getpid(), "created": 1.0}]
    (tmp_path / "processes.json").write_text(json.dumps(record))
    with ProcessGroup(tmp_path):
        pass


def test_the_callers_signal_handlers_are_restored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ProcessGroup(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is not before
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
