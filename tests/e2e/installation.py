"""`mm` commands in an MM_HOME of their own."""

import os
import subprocess
import sys
from pathlib import Path

import psutil


class Installation:
    """One MM_HOME, and the `mm` commands that use it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.variables = {
            name: value for name, value in os.environ.items() if not name.startswith("MM_")
        } | {"MM_HOME": str(home)}

    def mm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*arguments),
            env=self.variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def begin(self, *arguments: str, errors: int | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(*arguments),
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def processes(self) -> list[str]:
        """The processes that have this MM_HOME in their command, environment or directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                    continue
                words = [*process.cmdline(), *process.environ().values(), process.cwd()]
            except (psutil.Error, OSError):
                continue
            if any(str(self.home) in word for word in words):
                found.append(" ".join(process.cmdline()) or process.name())
        return found

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "mm_pipelines.cli", *arguments]
