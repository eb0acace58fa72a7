"""A running stack, as `mm up --sandbox` makes it."""

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


class Up:
    """A running `mm up --sandbox`."""

    def __init__(self, installation: Installation, ports: list[str]) -> None:
        self.installation = installation
        self.ports = dict(zip(ports[::2], ports[1::2], strict=True))
        self.process = installation.begin("up", "--sandbox", *ports)
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Stop it with"):
                return
        raise AssertionError(f"mm up ended:\n{self.said}")

    @property
    def ui(self) -> DagsterUi:
        return DagsterUi(f"http://127.0.0.1:{self.ports['--port']}", LOCATION)

    def children(self) -> dict[str, psutil.Process]:
        record = json.loads((self.installation.home / "processes.json").read_text())
        return {entry["name"]: psutil.Process(entry["pid"]) for entry in record}

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
            states = {f"{row['audience']}|{row['day']}": row["status"] for row in self.known()}
            if states.get(partition) == "complete":
                return
            time.sleep(2)
        raise AssertionError(f"{partition} is not complete: {states}")

    def known(self) -> list[dict[str, Any]]:
        shown = self.installation.mm("status", "--json")
        assert shown.returncode == 0, shown.stderr
        rows: list[dict[str, Any]] = json.loads(shown.stdout)["partitions"]
        return rows

    def sandbox(self, path: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.ports['--sandbox-port']}/_sandbox/{path}").json()
