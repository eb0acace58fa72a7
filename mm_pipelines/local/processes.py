"""A group of child processes that starts together, is watched, and ends without leftovers.

Each child leads a session of its own, so that whatever it starts in turn (Dagster's code servers
and run workers) is found and ended with it. MM_HOME records what runs: after the parent was killed,
the next group ends those leftovers first. A process is only ended if its environment contains the
recorded group's identifier, because process and session ids are reused.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Self

import psutil

from mm_pipelines.local.errors import LocalError
from mm_pipelines.local.logs import rotate

_GROUP_VARIABLE = "MM_PROCESS_GROUP"
_POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 15


class ProcessError(LocalError):
    """The processes cannot go on; the message names the one that failed and its log."""


class AlreadyRunningError(ProcessError):
    """Another group runs in the same MM_HOME."""


class ChildEndedError(ProcessError):
    """A child ended by itself."""


class NotReadyError(ProcessError):
    """A child did not become ready in time."""


class Stopped(BaseException):
    """The user stopped the program (Ctrl-C, SIGTERM or SIGHUP); no error, as KeyboardInterrupt."""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Not Linux: the time of the boot, in whole minutes because it is computed from the clock.
        return str(round(psutil.boot_time() / 60))


@dataclass(frozen=True)
class _Leader:
    """A child that leads a session: its process id is the session's id."""

    name: str
    pid: int


@dataclass(frozen=True)
class _Record:
    """What a group wrote to MM_HOME.

    Attributes:
        group: The identifier in the environment of every process of the group.
        boot: The kernel's boot identifier. After a reboot none of the processes exists.
        leaders: The children in the order they started in.
    """

    group: str = field(default_factory=lambda: secrets.token_hex(16))
    boot: str = field(default_factory=_boot_id)
    leaders: list[_Leader] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "_Record | None":
        try:
            content = json.loads(path.read_text())
            leaders = [_Leader(entry["name"], int(entry["pid"])) for entry in content["leaders"]]
            return cls(content["group"], content["boot"], leaders)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            # An older version's record cannot prove that a process is ours.
            return None

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(path)


class ProcessGroup:
    """The processes of one MM_HOME, as a context manager that ends them all.

    Entering it turns Ctrl-C, SIGTERM and SIGHUP into the exception `Stopped`, raised at the current
    instruction, so that everything is ended in order.

    Args:
        home: MM_HOME; outputs go to `logs/NAME.log` in it.
        stop_seconds: How long children may take to end before they are killed.
    """

    def __init__(self, home: Path, *, stop_seconds: float = 15.0) -> None:
        self._home = home
        self._stop_seconds = stop_seconds
        self._record_path = home / "processes.json"
        self._record = _Record()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._parents: set[str] = set()
        self._scope = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Take the MM_HOME and end what an earlier, killed group left.

        Raises:
            AlreadyRunningError: Another group runs in this MM_HOME.
        """
        with contextlib.ExitStack() as scope:
            scope.enter_context(self._alone())
            scope.enter_context(_signals_raise())
            earlier = _Record.read(self._record_path)
            if earlier is not None and earlier.boot == self._record.boot:
                _end(earlier, self._stop_seconds)
            self._record.write(self._record_path)
            self._scope = scope.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave half of the processes running.
        with self._scope, signals_ignored():
            self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        ready: Callable[[], bool] | None = None,
        seconds: float = 60.0,
        *,
        works_in_child: bool = False,
    ) -> None:
        """Start a child and wait until `ready` is true.

        Once it is ready, a child that `works_in_child` counts as ended when it has no child itself.

        Raises:
            ChildEndedError: This or another child ended meanwhile.
            NotReadyError: It is not ready after `seconds`.
        """
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        rotate(log)
        # A signal between the start and the record would leave a process that nothing knows.
        with log.open("ab") as output, _signals_deferred():
            child = subprocess.Popen(
                [os.fspath(part) for part in command],
                env={**environment, _GROUP_VARIABLE: self._record.group},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._children[name] = child
            self._record.leaders.append(_Leader(name, child.pid))
            self._record.write(self._record_path)
        if ready is not None:
            self._wait_until(ready, name, seconds)
        if works_in_child:
            self._parents.add(name)

    def _wait_until(self, ready: Callable[[], bool], name: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"{name} was not ready within {seconds:.0f} s; {self._tail(name)}"
                )
            time.sleep(_POLL_SECONDS)

    def run(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Run a command to its end.

        Raises:
            ChildEndedError: It failed.
        """
        self.start(name, command, environment)
        child = self._children.pop(name)
        while (status := child.poll()) is None:
            self.check()
            time.sleep(_POLL_SECONDS)
        if status != 0:
            raise ChildEndedError(f"{name} failed ({_describe(status)}); {self._tail(name)}")

    def check(self) -> None:
        """Make sure that every child is alive, and rotate the logs.

        Raises:
            ChildEndedError: One has ended; the message has its last lines.
        """
        for name, child in self._children.items():
            rotate(self.log(name))
            status = child.poll()
            if status is not None:
                raise ChildEndedError(
                    f"{name} ended by itself ({_describe(status)}); {self._tail(name)}"
                )
            if name in self._parents and not _has_children(child.pid):
                raise ChildEndedError(f"the worker process of {name} ended; {self._tail(name)}")

    def stop(self) -> None:
        """End every child and whatever it started, in the reverse of the order they started in."""
        _end(self._record, self._stop_seconds)
        for child in self._children.values():
            child.wait()
        self._children.clear()
        self._parents.clear()
        self._record.leaders.clear()
        self._record.write(self._record_path)

    def log(self, name: str) -> Path:
        """The file with a child's output."""
        return self._home / "logs" / f"{name}.log"

    def _tail(self, name: str) -> str:
        log = self.log(name)
        lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return f"the end of {log}:\n" + "\n".join(f"  {line}" for line in lines)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "processes.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunningError(
                    f"a stack runs already in {self._home}: stop it, or set MM_HOME to another "
                    "directory"
                ) from None
            yield


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _has_children(pid: int) -> bool:
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _members(record: _Record) -> list[psutil.Process]:
    """The live processes in the recorded sessions that carry the group's identifier."""
    sessions = {leader.pid for leader in record.leaders}
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                os.getsid(process.pid) in sessions
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(_GROUP_VARIABLE) == record.group
            ):
                members.append(process)
    return members


def _end(record: _Record, seconds: float) -> None:
    """End whole sessions: SIGTERM, the newest session first; SIGKILL to what is left."""
    deadline = time.monotonic() + seconds
    order = {leader.pid: place for place, leader in enumerate(reversed(record.leaders))}
    first = True
    while members := _members(record):
        late = time.monotonic() > deadline
        if first or late:
            members.sort(key=lambda process: order.get(_session(process), 0))
            for process in members:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        first = False
        time.sleep(_POLL_SECONDS)


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    with _handlers(stop):
        yield


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP, for work that must not be interrupted."""
    with _handlers(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Deliver Ctrl-C, SIGTERM and SIGHUP only after the block."""
    received: list[int] = []
    with _handlers(lambda number, _frame: received.append(number)):
        yield
    if received:
        signal.raise_signal(received[0])


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
