"""The parts of the stack under Dagster as it is installed: an empty dagster.yaml, SQLite."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from mm_pipelines.local.dagster_ui import DagsterUi, DagsterUiError
from mm_pipelines.local.environment import Environment
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade
from tests.servers import free_port

MODULE = "mm_pipelines.definitions"


def wait_until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    """Look every half second."""
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.5)


class StockStack:
    """`dagster dev`, the receiver and the sandbox, on one database."""

    def __init__(self, database: Database, sandbox_url: str, ui_url: str, dagster_pid: int) -> None:
        self.database = database
        self.sandbox_url = f"{sandbox_url}/_sandbox"
        self.ui = DagsterUi(ui_url, MODULE)
        self._dagster = psutil.Process(dagster_pid)

    def is_loaded(self) -> bool:
        try:
            return self.ui.is_loaded()
        except (httpx.HTTPError, DagsterUiError):
            return False

    def sandbox(self, path: str) -> Any:
        return httpx.get(f"{self.sandbox_url}/{path}", timeout=60).raise_for_status().json()

    def control(self, path: str, /, **body: Any) -> None:
        httpx.post(f"{self.sandbox_url}/{path}", json=body, timeout=60).raise_for_status()

    def run_workers(self) -> list[psutil.Process]:
        return [
            process
            for process in self._dagster.children(recursive=True)
            if "multiprocessing.spawn" in " ".join(process.cmdline())
        ]


@contextmanager
def stock_stack(home: Path, config: Path) -> Iterator[StockStack]:
    """Start everything, and end it and its children afterwards."""
    sandbox_port, receiver_port, ui_port = (str(free_port()) for _ in range(3))
    sandbox_url = f"http://127.0.0.1:{sandbox_port}"
    receiver_url = f"http://127.0.0.1:{receiver_port}"
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MM_")}
    mine |= {"MM_HOME": str(home), "MM_CONFIG": str(config)}
    environment = Environment.for_sandbox(sandbox_url, mine)
    dagster_home = home / "stock"
    with ExitStack() as scope:
        postgres = environment.postgres()
        assert postgres is not None
        postgres.start()
        scope.callback(postgres.stop)
        environment.record_sandbox()
        dagster_home.mkdir(parents=True)
        (dagster_home / "dagster.yaml").write_text("")
        database = Database(environment.database_url())
        scope.callback(database.dispose)
        upgrade(database)
        variables = {**mine, **environment.exports(), "DAGSTER_HOME": str(dagster_home)}

        def start(name: str, *arguments: str) -> int:
            with (home / f"{name}.log").open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    env=variables,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            scope.callback(_end, process)
            return process.pid

        start(
            "sandbox",
            "mm_pipelines.cli",
            "sandbox",
            "--port",
            sandbox_port,
            "--webhook-url",
            f"{receiver_url}/webhooks",
            "--match-delay",
            "1",
        )
        start("receiver", "mm_pipelines.cli", "webhooks", "--port", receiver_port)
        pid = start("dagster", "dagster", "dev", "-m", MODULE, "-p", ui_port)
        stack = StockStack(database, sandbox_url, f"http://127.0.0.1:{ui_port}", pid)
        scope.callback(stack.ui.close)
        wait_until(stack.is_loaded, 180, "dagster dev has loaded the code location")
        yield stack


def _end(process: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
