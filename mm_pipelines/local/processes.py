"""A group of child processes that starts together, is watched, and ends without leaving anything.

Each child is the leader of a session of its own, so that whatever it starts in turn (Dagster's code
servers and run workers) can be found and ended with it. What runs is recorded in MM_HOME: after the
parent was killed, the next group ends those leftovers first.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Self

import psutil

_POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 15
_LOG_BYTES = 10_000_000


class ProcessError(Exception):
    """The processes cannot go on; the message names the one at fault and its log."""


class AlreadyRunning(ProcessError):
    """Another group runs in the same MM_HOME."""


class ChildDied(ProcessError):
    """A child ended by itself."""


class NotReady(ProcessError):
    """A child did not come up in time."""


class Stopped(BaseException):
    """The user asked to stop (Ctrl-C, SIGTERM or SIGHUP); like KeyboardInterrupt, no error."""


@dataclass(frozen=True)
class _Leader:
    """A child as it is recorded: a process id is only its own together with its creation time."""

    name: str
    pid: int
    created: float


class ProcessGroup:
    """The processes of one MM_HOME, as a context manager that ends them all.

    Args:
        home: MM_HOME; outputs go to `logs/NAME.log` in it.
        stop_seconds: how long children may take to end by themselves before they are killed.

    Entering it turns Ctrl-C, SIGTERM and SIGHUP into the exception `Stopped`, raised where the
    program is, so that everything is ended in order.
    """

    def __init__(self, home: Path, *, stop_seconds: float = 15.0) -> None:
        self._home = home
        self._stop_seconds = stop_seconds
        self._record = home / "processes.json"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._parents: set[str] = set()
        self._leaders: list[_Leader] = []
        self._scope = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Take the MM_HOME and end what an earlier, killed group left.

        Raises:
            AlreadyRunning: another group runs in this MM_HOME.
        """
        with contextlib.ExitStack() as scope:
            scope.enter_context(self._alone())
            scope.enter_context(_signals_raise())
            _end([leader for leader in self._recorded() if _is_ours(leader)], self._stop_seconds)
            self._write_record()
            self._scope = scope.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave half of the processes behind.
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

        Once it is ready, a child that `works_in_child` has died as soon as it has no child itself.

        Raises:
            ChildDied: this or another child ended meanwhile.
            NotReady: it is not ready after `seconds`.
        """
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            child = subprocess.Popen(
                [os.fspath(part) for part in command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[name] = child
        self._leaders.append(_Leader(name, child.pid, psutil.Process(child.pid).create_time()))
        self._write_record()
        if ready is not None:
            self._wait_until(ready, name, seconds)
        if works_in_child:
            self._parents.add(name)

    def _wait_until(self, ready: Callable[[], bool], name: str, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > give_up:
                raise NotReady(
                    f"{name} gave no sign of life within {seconds:.0f} s; {self._tail(name)}"
                )
            time.sleep(_POLL_SECONDS)

    def run(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Run a command to its end.

        Raises:
            ChildDied: it failed.
        """
        self.start(name, command, environment)
        child = self._children.pop(name)
        while (status := child.poll()) is None:
            self.check()
            time.sleep(_POLL_SECONDS)
        if status != 0:
            raise ChildDied(f"{name} failed ({_how(status)}); {self._tail(name)}")

    def check(self) -> None:
        """Make sure that every child lives.

        Raises:
            ChildDied: one has ended; the message has its last lines.
        """
        for name, child in self._children.items():
            status = child.poll()
            if status is not None:
                raise ChildDied(f"{name} ended by itself ({_how(status)}); {self._tail(name)}")
            if name in self._parents and not _has_children(child.pid):
                raise ChildDied(f"what {name} works in has ended; {self._tail(name)}")

    def stop(self) -> None:
        """End every child and whatever it started, in the reverse of the order they started in."""
        _end(list(reversed(self._leaders)), self._stop_seconds)
        for child in self._children.values():
            child.wait()
        self._children.clear()
        self._parents.clear()
        self._leaders.clear()
        self._write_record()

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
                raise AlreadyRunning(
                    f"a stack runs already in {self._home}: stop it there, or set MM_HOME"
                ) from None
            yield

    def _recorded(self) -> list[_Leader]:
        try:
            return [_Leader(**entry) for entry in json.loads(self._record.read_text())]
        except FileNotFoundError:
            return []

    def _write_record(self) -> None:
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(leader) for leader in self._leaders]))
        partial.replace(self._record)


def _how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _has_children(pid: int) -> bool:
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _is_ours(leader: _Leader) -> bool:
    """Whether the session of a recorded leader can still be ours.

    The kernel gives a process id to nobody else while a session or group of that number lives, so
    a process with this id and another birth means that the whole session has ended.
    """
    try:
        return psutil.Process(leader.pid).create_time() == leader.created
    except psutil.NoSuchProcess:
        return True


def _members(leaders: Sequence[_Leader]) -> list[psutil.Process]:
    sessions = {leader.pid for leader in leaders}
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def _end(leaders: Sequence[_Leader], seconds: float) -> None:
    """End whole sessions: SIGTERM to each in the order given, SIGKILL to what is left."""
    give_up = time.monotonic() + seconds
    order = {leader.pid: place for place, leader in enumerate(leaders)}
    first = True
    while members := _members(leaders):
        late = time.monotonic() > give_up
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


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    with _handlers(stop):
        yield


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """Let nothing interrupt what must be done to its end."""
    with _handlers(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
