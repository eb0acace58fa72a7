"""A run as a process of its own, forked, which may be killed at any of its statements.

The run stops at every call to Meta until the simulation answers it. So the simulation decides the
order in which runs go on, and what happens between a call and its answer.
"""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import adbc_driver_postgresql.dbapi  # noqa: F401 - imported here once, not in every run
import httpx
import time_machine
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool


@dataclass(frozen=True)
class Call:
    """A call to Meta that waits for its answer."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes

    @property
    def request(self) -> httpx.Request:
        """The call as httpx has it."""
        return httpx.Request(self.method, self.url, headers=self.headers, content=self.content)


@dataclass(frozen=True)
class Sleep:
    """The run waits."""

    seconds: float


@dataclass(frozen=True)
class Ended:
    """The run ended by itself.

    Attributes:
        result: What the work returned; None if it raised.
        error: The type and message of what it raised.
        wait: Seconds until the next attempt; None if another attempt cannot help.
        deferred: Whether the run recorded a deferral.
        log: Everything that it logged or raised.
    """

    result: Any = None
    error: str | None = None
    wait: float | None = None
    deferred: bool = False
    log: str = ""


@dataclass(frozen=True)
class Died:
    """The run was killed."""


Message = Call | Sleep | Ended | Died


@dataclass(frozen=True)
class Answer:
    """Meta's answer, or the exception that the run's transport raises; and the time."""

    now: float
    response: tuple[int, dict[str, str], bytes] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Death:
    """At which statement a run is killed: before it, or after the next commit."""

    statement: int
    after_commit: bool


class RunProcess:
    """A forked run. `message` waits for what it does next, `answer` lets it go on."""

    def __init__(
        self,
        work: Callable[["Outside"], Ended],
        now: float,
        death: Death | None = None,
    ) -> None:
        ours, theirs = Pipe()
        self._connection = ours
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _run(theirs, work, now, death)
        theirs.close()

    def message(self, seconds: float) -> Message | None:
        """What the run does next; None if it does nothing for so long."""
        if not self._connection.poll(seconds):
            return None
        try:
            message: Message = self._connection.recv()
        except EOFError:
            message = Died()
        if isinstance(message, Ended | Died):
            self._reap()
        return message

    def answer(self, answer: Answer) -> None:
        """Let the run go on."""
        with suppress(BrokenPipeError):
            self._connection.send(answer)

    def kill(self) -> None:
        """End the run as a power failure does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._connection.close()


class Outside:
    """What a run has of the world: time, a transport to Meta, and its log."""

    def __init__(self, connection: Connection, traveller: Any) -> None:
        self._connection = connection
        self._traveller = traveller
        self.log: list[str] = []

    def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        self._exchange(Sleep(seconds))

    def transport(self) -> httpx.BaseTransport:
        """A transport whose calls the simulation answers."""
        return _Transport(self._exchange)

    def _exchange(self, message: Call | Sleep) -> Answer:
        self._connection.send(message)
        answer: Answer = self._connection.recv()
        self._traveller.move_to(datetime.fromtimestamp(answer.now, UTC))
        return answer


class _Transport(httpx.BaseTransport):
    def __init__(self, exchange: Callable[[Call], Answer]) -> None:
        self._exchange = exchange

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        answer = self._exchange(
            Call(request.method, str(request.url), dict(request.headers), content)
        )
        if answer.error == "not_sent":
            raise httpx.ConnectError("the simulation refuses the connection")
        if answer.response is None:
            raise httpx.ReadError("the simulation loses the answer")
        status, headers, body = answer.response
        return httpx.Response(status, headers=headers, content=body)


class _LogLines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def _run(
    connection: Connection, work: Callable[[Outside], Ended], now: float, death: Death | None
) -> None:
    """The forked process: it ends here, without the clean-up of the process it came from."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with time_machine.travel(datetime.fromtimestamp(now, UTC), tick=False) as traveller:
            outside = Outside(connection, traveller)
            logging.getLogger().addHandler(_LogLines(outside.log))
            logging.getLogger().setLevel(logging.INFO)
            if death is not None:
                _die_at(death)
            connection.send(work(outside))
    except BaseException:  # noqa: BLE001 - reported by the simulation
        import traceback

        connection.send(Ended(error="the simulation failed", log=traceback.format_exc()))
    finally:
        os._exit(0)


def _die_at(death: Death) -> None:
    statements = 0
    committed = False

    def before_statement(*_: object) -> None:
        nonlocal statements
        statements += 1
        if statements >= death.statement and not death.after_commit:
            os.kill(os.getpid(), signal.SIGKILL)

    def commit(*_: object) -> None:
        nonlocal committed
        committed = statements >= death.statement and death.after_commit

    def next_step(*_: object) -> None:
        if committed:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", before_statement)
    event.listen(Engine, "commit", commit)
    event.listen(Engine, "begin", next_step)
    event.listen(Pool, "checkin", next_step)
