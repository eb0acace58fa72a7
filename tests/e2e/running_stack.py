"""A running stack, as `mm up --sandbox` makes it."""

import contextlib
import json
import signal
import time
from typing import Any

import httpx
import psutil

from mm_pipelines.local.dagster_ui import DagsterUi
from mm_pipelines.local.demo import JOB
from mm_pipelines.local.stack import LOCATION
from tests.e2e.installation import Installation


class RunningStack:
    """A running `mm up --sandbox`."""

    def __init__(self, installation: Installation, ports: list[str]) -> None:
        self.installation = installation
        self.ports = dict(zip(ports[::2], ports[1::2], strict=True))
        self.process = installation.begin("up", "--sandbox", *ports)
        self.output = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if line.startswith("Stop it with"):
                return
        raise AssertionError(f"mm up ended:\n{self.output}")

    @property
    def ui(self) -> DagsterUi:
        return DagsterUi(f"http://127.0.0.1:{self.ports['--port']}", LOCATION)

    def children(self) -> dict[str, psutil.Process]:
        """The living parts by name."""
        record = json.loads((self.installation.home / "processes.json").read_text())
        living = {}
        for entry in record["leaders"]:
            # The process that reported interrupted runs has ended since.
            with contextlib.suppress(psutil.NoSuchProcess):
                living[entry["name"]] = psutil.Process(entry["pid"])
        return living

    def run_workers(self) -> list[psutil.Process]:
        """The processes of runs, the youngest last."""
        return sorted(self._below_the_code_server("multiprocessing.spawn"), key=_age)

    def kill(self, part: str) -> None:
        """Kill a part of the stack with SIGKILL; `code location` is a child of the code server."""
        if part == "code location":
            [process] = self._below_the_code_server(" api grpc ")
        elif part == "run worker":
            process = self.run_workers()[-1]
        elif part == "postgres":
            process = self.postmaster()
        elif part == "mm up":
            process = psutil.Process(self.process.pid)
        else:
            process = self.children()[part]
        process.kill()

    def postmaster(self) -> psutil.Process:
        """The embedded server's main process."""
        pid_file = self.installation.home / "postgres/data/postmaster.pid"
        return psutil.Process(int(pid_file.read_text().split()[0]))

    def _below_the_code_server(self, words: str) -> list[psutil.Process]:
        found = []
        for process in self.children()["code-server"].children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

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
            states = {f"{row['audience']}|{row['day']}": row["status"] for row in self.partitions()}
            if states.get(partition) == "complete":
                return
            time.sleep(2)
        raise AssertionError(f"{partition} is not complete: {states}")

    def partitions(self) -> list[dict[str, Any]]:
        shown = self.installation.mm("status", "--json")
        assert shown.returncode == 0, shown.stderr
        rows: list[dict[str, Any]] = json.loads(shown.stdout)["partitions"]
        return rows

    def sandbox(self, path: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.ports['--sandbox-port']}/_sandbox/{path}").json()


def _age(process: psutil.Process) -> float:
    return process.create_time()
