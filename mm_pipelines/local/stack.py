"""The whole of mm_pipelines on one machine: database, sandbox, receiver and Dagster."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
from sqlalchemy import text

from mm_pipelines.local import secret_file, socket_paths
from mm_pipelines.local.accounts import Account
from mm_pipelines.local.dagster_ui import DagsterUi, DagsterUiError
from mm_pipelines.local.environment import Environment
from mm_pipelines.local.logs import rotate
from mm_pipelines.local.ports import Ports
from mm_pipelines.local.postgres.control import RECOVERY_SECONDS
from mm_pipelines.local.processes import ProcessError, ProcessGroup, signals_ignored
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade

LOCATION = "mm_pipelines"
"""The code location's name, as in workspace.yaml: Dagster keeps the state of sensors under it."""

CODE_SERVER_HEARTBEAT_SECONDS = "86400"
"""How long the process behind the code server lives without a heartbeat. Dagster's default of 30 s
is too short for a machine that was suspended; the process ends with the stack anyway."""

_START_SECONDS = 120.0
_WATCH_SECONDS = 2.0

_Report = Callable[[str], None]

DAGSTER_YAML = Path(__file__).with_name("dagster.yaml")
"""Dagster's instance settings; `mm up` and `mm env` copy them to DAGSTER_HOME."""


class DatabaseLostError(ProcessError):
    """The embedded database ended, or did not recover, while the stack was running."""


class CodeLocationError(ProcessError):
    """Dagster cannot load our code location."""


def prepare_dagster_home(environment: Environment) -> None:
    """Write dagster.yaml to DAGSTER_HOME."""
    environment.dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(DAGSTER_YAML, environment.dagster_home / "dagster.yaml")


class Stack:
    """The running stack of one MM_HOME. Leaving it ends everything, the embedded database last.

    Args:
        environment: MM_HOME, database and Graph API.
        ports: The ports of the servers.
        report: Called with the name of each part before it starts.
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
        self._database_lost_at: float | None = None

    def __enter__(self) -> Self:
        """Take the MM_HOME, and start its database.

        Raises:
            AlreadyRunningError: Another stack runs in this MM_HOME.
            PostgresError: The embedded database cannot be started.
        """
        with contextlib.ExitStack() as scope:
            scope.enter_context(self._group)
            self._environment.record_sandbox()
            if self._postgres is not None:
                # While this block lasts no other command stops the server.
                scope.enter_context(self._postgres.running())
            scope.callback(self._end)
            self._scope = scope.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._scope.close()

    def _end(self) -> None:
        # A second Ctrl-C must not leave half of the stack running.
        with signals_ignored():
            self._report("stopping")
            self._group.stop()
            if self._postgres is not None:
                self._postgres.stop()

    def start_servers(self) -> None:
        """Start everything but Dagster's daemon, and wait until each part answers.

        Raises:
            PortTakenError: Another program listens on one of the ports.
            ProcessError: A part ended or was not ready in time; the message has its log's end.
        """
        environment = self._environment
        self._ports.require_free(sandbox=environment.sandbox)
        self._report("database schema")
        database = Database(environment.database_url())
        upgrade(database)
        prepare_dagster_home(environment)
        self._variables = {**os.environ, **environment.exports()}
        self._orphaned_runs = find_orphaned_runs(database, self._code_server_socket())
        database.dispose()
        if environment.sandbox:
            self._start_sandbox()
        self._start_receiver()
        self._start_dagster()

    def start_daemon(self) -> None:
        """Start Dagster's daemon: schedules, sensors, the run queue and backfills.

        Separate from the other servers because the daemon looks for backfills when it starts, and
        then every 30 s: a backfill that is submitted before the daemon starts begins at once.
        """
        self._report("Dagster's daemon")
        started_at = time.time()
        self._group.start(
            "dagster-daemon",
            self._python("dagster._daemon", "run", "--workspace", self._workspace()),
            self._variables,
        )
        if self._orphaned_runs:
            self._report_orphaned_runs(started_at)

    def check(self) -> None:
        """Make sure that every part is alive.

        Raises:
            ProcessError: One has ended.
        """
        self._group.check()
        if self._postgres is not None:
            rotate(self._postgres.log)
        self._check_database()

    def _check_database(self) -> None:
        """Allow the embedded server to recover from a crash of one of its processes."""
        if self._postgres is None or self._postgres.is_running():
            self._database_lost_at = None
            return
        log = self._postgres.log
        if not self._postgres.is_alive():
            raise DatabaseLostError(f"the embedded database ended by itself; its log is {log}")
        now = time.monotonic()
        if self._database_lost_at is None:
            self._database_lost_at = now
            self._report("the embedded database does not answer; waiting for it to recover")
        elif now > self._database_lost_at + RECOVERY_SECONDS:
            raise DatabaseLostError(
                f"the embedded database has not answered for {RECOVERY_SECONDS:.0f} s; its log is "
                f"{log}"
            )

    def wait(self) -> None:
        """Watch the parts until the user stops the stack, which raises `Stopped`.

        Raises:
            ProcessError: A part has ended. The others are ended too.
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

    def _report_orphaned_runs(self, daemon_started_at: float) -> None:
        """Report runs as failed whose workers ended with an earlier, killed stack."""
        self._report("interrupted runs")
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
        # One code server for webserver and daemon, of the kind that the UI can reload. A process
        # behind it loads our code and starts runs; the code server never restarts that process.
        self._group.start(
            "code-server",
            self._python(
                *("dagster", "code-server", "start", "--socket", socket),
                *("--module-name", "mm_pipelines.definitions", "--location-name", LOCATION),
                *("--heartbeat-ttl", CODE_SERVER_HEARTBEAT_SECONDS),
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
        except DagsterUiError as error:
            raise CodeLocationError(
                f"Dagster cannot load mm_pipelines.definitions: {error}"
            ) from None
        finally:
            ui.close()

    def _workspace(self) -> Path:
        return self._environment.dagster_home / "workspace.yaml"

    def _code_server_socket(self) -> Path:
        """The code server's socket.

        It is always the same for this MM_HOME, and no other MM_HOME's: Dagster records it with each
        run and asks there what became of it, also when another host shares the database.
        """
        name = f"code-server-{self._environment.installation_id()}.sock"
        socket = self._environment.dagster_home / name
        if socket_paths.fits(socket):
            return socket
        short = socket_paths.short_directory(self._environment.dagster_home, Account.current())
        return short / name

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


# The runs that Dagster believes to be in progress, started through this code server.
_IN_PROGRESS = text("""
select run_id from dagster.runs join dagster.run_tags using (run_id)
where status in ('STARTING', 'STARTED', 'CANCELING')
  and key = '.dagster/grpc_info' and value::json ->> 'socket' = :socket
""")


def find_orphaned_runs(database: Database, code_server_socket: Path) -> list[str]:
    """The ids of runs in progress that this stack's code server has started.

    Before the stack starts, none of their workers can be alive. Runs that another host, or a plain
    `dagster` command, works on have another address or none.
    """
    with database.transaction() as connection:
        if connection.scalar(text("select to_regclass('dagster.run_tags')")) is None:
            return []
        return list(connection.scalars(_IN_PROGRESS, {"socket": str(code_server_socket)}))


def _answers(url: str) -> bool:
    try:
        # A server without a front page answers 404; one that is not ready, 503.
        return httpx.get(url, timeout=5).status_code < httpx.codes.INTERNAL_SERVER_ERROR
    except httpx.HTTPError:
        return False
