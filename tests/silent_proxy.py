"""A proxy before PostgreSQL that stops answering, as one with a hung process does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import make_url

from mm_pipelines.warehouse.database import Database


class SilentProxy:
    """Forwards TCP connections to PostgreSQL until it is silenced, then only accepts bytes."""

    def __init__(self, database: Database) -> None:
        self._target = server_address(database)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._forwarding: list[threading.Event] = []
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()
        port = self._listener.getsockname()[1]
        url = make_url(database.url).set(host="127.0.0.1", port=port)
        self.url = url.difference_update_query(["host", "port"]).render_as_string(False)

    def silence(self) -> None:
        """The connections of now never answer again; new ones do."""
        for forwarding in self._forwarding:
            forwarding.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.socket(self._target[0], socket.SOCK_STREAM)
            server.connect(self._target[1])
            self._sockets += [client, server]
            forwarding = threading.Event()
            forwarding.set()
            self._forwarding.append(forwarding)
            for ends in ((client, server), (server, client)):
                threading.Thread(
                    target=self._forward, args=(*ends, forwarding), daemon=True
                ).start()

    def _forward(
        self, source: socket.socket, sink: socket.socket, forwarding: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if forwarding.is_set():
                    sink.sendall(data)

    @classmethod
    @contextmanager
    def before(cls, database: Database) -> "Iterator[SilentProxy]":
        """A proxy before the database's server, for as long as the block lasts."""
        proxy = cls(database)
        try:
            yield proxy
        finally:
            proxy.close()

    def close(self) -> None:
        """Close every connection."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def server_address(database: Database) -> tuple[int, Any]:
    """The family and address of the server's socket."""
    url = make_url(database.url)
    host, port = str(url.query.get("host") or url.host), url.query.get("port") or url.port or 5432
    if host.startswith("/"):
        return socket.AF_UNIX, f"{host}/.s.PGSQL.{port}"
    return socket.AF_INET, (host, int(str(port)))
