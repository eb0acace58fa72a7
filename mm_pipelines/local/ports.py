"""The ports that the stack's servers listen on."""

import contextlib
import socket
from dataclasses import dataclass

from mm_pipelines.local.errors import LocalError

HOST = "127.0.0.1"
UI_PORT = 3000
RECEIVER_PORT = 8080
SANDBOX_PORT = 8090


class PortTakenError(LocalError):
    """Another program listens on a port that the stack needs."""


@dataclass(frozen=True)
class Ports:
    """Host and ports of the three servers that people and Meta connect to."""

    host: str = HOST
    ui: int = UI_PORT
    receiver: int = RECEIVER_PORT
    sandbox: int = SANDBOX_PORT

    def require_free(self, *, sandbox: bool) -> None:
        """Make sure that the ports are free.

        Raises:
            PortTakenError: One is not; the message names it and the option that changes it.
        """
        wanted = {"--port": self.ui, "--receiver-port": self.receiver}
        if sandbox:
            wanted["--sandbox-port"] = self.sandbox
        for option, port in wanted.items():
            if not _is_free(self.host, port):
                raise PortTakenError(
                    f"port {port} on {self.host} is taken: stop the program that listens there, "
                    f"or choose another port with {option}"
                )

    def free_or_others(self) -> "Ports":
        """These ports, each replaced by a free one where it is taken."""
        return Ports(
            host=self.host,
            ui=_free(self.host, self.ui),
            receiver=_free(self.host, self.receiver),
            sandbox=_free(self.host, self.sandbox),
        )

    @property
    def ui_url(self) -> str:
        """The Dagster UI."""
        return f"http://{self.host}:{self.ui}"

    @property
    def receiver_url(self) -> str:
        """The webhook receiver."""
        return f"http://{self.host}:{self.receiver}"

    @property
    def sandbox_url(self) -> str:
        """The sandbox of the Graph API."""
        return f"http://{self.host}:{self.sandbox}"


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # The servers set the same option: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            return True
    return False


def _free(host: str, port: int) -> int:
    if _is_free(host, port):
        return port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
