"""The whole of mm_pipelines on one machine: database, sandbox, receiver and Dagster."""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
from sqlalchemy import text

from mm_pipelines.local import secret_file
from mm_pipelines.local.dagster_ui import DagsterRefused, DagsterUi
from mm_pipelines.local.environment import Environment, project_file
from mm_pipelines.local.ports import Ports
from mm_pipelines.local.processes import ProcessError, ProcessGroup, signals_ignored
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade

# The name that workspace.yaml gives the code location, too: the state of sensors hangs on it.
LOCATION = "mm_pipelines"

_SOCKET_PATH_BYTES = 107
_START_SECONDS = 120.0
# By default the process behind the code server ends itself after half a minute without a sign of
# the code server: on a machine that slept, that is both their sleep. It ends with the stack anyway.
CODE_SERVER_SILENCE_SECONDS = "86400"
_WATCH_SECONDS = 2.0

_Report = Callable[[str], None]


class DatabaseGone(ProcessError):
    """The embedded database ended while the stack was running."""


class LocationBroken(ProcessError):
    """Dagster cannot load our code location."""


def prepare_dagster_home(environment: Environment) -> None:
    """Put dagster.yaml where Dagster looks for it."""
    environment.dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(project_file("dagster.yaml"), environment.dagster_home / "dagster.yaml")


class Stack:
    """The running stack of one MM_HOME; leaving it ends everything, the embedded database last.

    Args:
        environment: where state lies and which Graph API is used.
        ports: where the servers listen.
        report: told what is being started, one line each.
    """

    def __init__(
        self,
        environment: Environment,
        ports: Ports,
        *,
        report: _Report = lambda _: None,
    ) -> None:
        self._environment = environment
        self._ports = ports
        self._report = report
        self._group = ProcessGroup(environment.home)
        self._postgres = environment.postgres()
        self._scope = contextlib.ExitStack()
        self._variables: dict[str, str] = {}
        self._orphaned_runs: list[str] = []

    def __enter__(self) -> Self:
        """Take the MM_HOME, and start its database.

        Raises:
            AlreadyRunning: another stack runs in this MM_HOME.
            PostgresError: the embedded database cannot be started.
        """
        with contextlib.ExitStack() as scope:
            scope.enter_context(self._group)
            self._environment.keep()
            if self._postgres is not None:
                # Other commands leave a server alone that somebody uses.
                scope.enter_context(self._postgres.used())
            scope.callback(self._end)
            self._scope = scope.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._scope.close()

    def _end(self) -> None:
        # A second Ctrl-C must not leave half of the stack behind.
        with signals_ignored():
            self._report("stopping")
            self._group.stop()
            if self._postgres is not None:
                self._postgres.stop()

    def start_servers(self) -> None:
        """Start everything but Dagster's daemon, and wait until each part answers.

        Raises:
            PortTaken: another program listens on one of the ports.
            ProcessError: a part died or did not come up; the message has the end of its log.
        """
        environment = self._environment
        self._ports.require_free(sandbox=environment.sandbox)
        self._report("database schema")
        database = Database(environment.database_url())
        upgrade(database)
        prepare_dagster_home(environment)
        self._variables = {**os.environ, **environment.exports()}
        self._orphaned_runs = _unfinished_runs(database)
        database.dispose()
        if environment.sandbox:
            self._start_sandbox()
        self._start_receiver()
        self._start_dagster()

    def start_daemon(self) -> None:
        """Start Dagster's daemon: schedules, sensors, the run queue and backfills.

        Apart from the rest, because a backfill that waits when the daemon starts is taken up at
        once, and one that comes later waits for the next of its ticks, 30 s apart.
        """
        self._report("Dagster's daemon")
        started_at = time.time()
        self._group.start(
            "dagster-daemon",
            self._python("dagster._daemon", "run", "--workspace", self._workspace()),
            self._variables,
        )
        if self._orphaned_runs:
            self._settle_orphaned_runs(started_at)

    def check(self) -> None:
        """Make sure that every part lives.

        Raises:
            ProcessError: one has died.
        """
        self._group.check()
        if self._postgres is not None and not self._postgres.is_running():
            raise DatabaseGone(f"the embedded database has died; its log is {self._postgres.log}")

    def wait(self) -> None:
        """Watch over the parts until the user stops the stack, which raises `Stopped`.

        Raises:
            ProcessError: a part has died. The others are not left to run without it.
        """
        while True:
            self.check()
            time.sleep(_WATCH_SECONDS)

    # The parts

    def _start_sandbox(self) -> None:
        self._report("sandbox of the Graph API")
        host, port = self._ports.host, str(self._ports.sandbox)
        webhooks = f"{self._ports.receiver_url}/webhooks"
        self._group.start(
            "sandbox",
            self._python(
                *("mm_pipelines.cli", "sandbox", "--host", host, "--port", port),
                *("--webhook-url", webhooks, "--state", self._environment.home / "sandbox.sqlite"),
            ),
            self._variables,
            ready=lambda: _answers(self._ports.sandbox_url),
            seconds=_START_SECONDS,
        )

    def _start_receiver(self) -> None:
        self._report("webhook receiver")
        host, port = self._ports.host, str(self._ports.receiver)
        self._group.start(
            "receiver",
            self._python("mm_pipelines.cli", "webhooks", "--host", host, "--port", port),
            self._variables,
            ready=lambda: _answers(f"{self._ports.receiver_url}/readyz"),
            seconds=_START_SECONDS,
        )

    def _settle_orphaned_runs(self, daemon_started_at: float) -> None:
        """Report the runs whose workers an earlier, killed stack took with it as failed."""
        self._report("runs that were cut off")
        self._group.run(
            "orphaned-runs",
            self._python(
                "mm_pipelines.orchestration.orphaned_runs",
                str(daemon_started_at),
                *self._orphaned_runs,
            ),
            self._variables,
        )

    def _start_dagster(self) -> None:
        self._report("Dagster's code location")
        socket = self._code_server_socket()
        socket.unlink(missing_ok=True)
        # One code server for webserver and daemon alike; it is the kind that the UI can reload. Our
        # code is loaded and runs are started by a process behind it, which it never starts again.
        self._group.start(
            "code-server",
            self._python(
                *("dagster", "code-server", "start", "--socket", socket),
                *("--module-name", "mm_pipelines.definitions", "--location-name", LOCATION),
                *("--heartbeat-ttl", CODE_SERVER_SILENCE_SECONDS),
            ),
            self._variables,
            ready=socket.exists,
            seconds=_START_SECONDS,
            works_in_child=True,
        )
        self._report("Dagster's UI")
        workspace = self._workspace()
        secret_file.write(workspace, _workspace_yaml(socket))
        self._group.start(
            "dagster-webserver",
            self._python(
                *("dagster_webserver", "--workspace", workspace),
                *("--host", self._ports.host, "--port", str(self._ports.ui)),
            ),
            self._variables,
            ready=self._is_loaded,
            seconds=_START_SECONDS,
        )

    def _is_loaded(self) -> bool:
        ui = DagsterUi(self._ports.ui_url, LOCATION)
        try:
            return ui.is_loaded()
        except httpx.HTTPError:
            return False
        except DagsterRefused as error:
            raise LocationBroken(f"Dagster cannot load mm_pipelines.definitions: {error}") from None
        finally:
            ui.close()

    def _workspace(self) -> Path:
        return self._environment.dagster_home / "workspace.yaml"

    def _code_server_socket(self) -> Path:
        # Always the same address: Dagster notes it with each run, and asks there what became of it.
        socket = self._environment.dagster_home / "code-server.sock"
        if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES:
            return socket
        digest = hashlib.sha256(os.fsencode(socket)).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"mm-dagster-{digest}"
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory / "code-server.sock"

    @staticmethod
    def _python(module: str, *arguments: str | Path) -> list[str | Path]:
        return [sys.executable, "-m", module, *arguments]


def _workspace_yaml(socket: Path) -> str:
    return f"""\
# Written by `mm up`.
load_from:
  - grpc_server:
      socket: {str(socket)!r}
      location_name: {LOCATION}
"""


def _unfinished_runs(database: Database) -> list[str]:
    """The runs that Dagster believes are being worked on; before a stack starts none can be."""
    with database.transaction() as connection:
        if connection.scalar(text("select to_regclass('dagster.runs')")) is None:
            return []
        statuses = ["NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
        return list(
            connection.scalars(
                text("select run_id from dagster.runs where status = any(:statuses)"),
                {"statuses": statuses},
            )
        )


def _answers(url: str) -> bool:
    try:
        # A 404 of a server that has no front page is an answer; a 503 says "not ready".
        return httpx.get(url, timeout=5).status_code < httpx.codes.INTERNAL_SERVER_ERROR
    except httpx.HTTPError:
        return False
