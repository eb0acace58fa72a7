"""A PostgreSQL that listens on TCP; the embedded one has a Unix socket only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mm_pipelines.local.accounts import Account
from mm_pipelines.local.postgres.binaries import find_binaries
from tests.servers import free_port
from tests.temporary_home import reachable_home


@contextmanager
def server_on_tcp(address: str) -> Iterator[str]:
    """A new PostgreSQL that listens on TCP; yields its URL."""
    account = Account.for_server(None)
    with reachable_home() as home:
        account.make_private(home)
        binaries = find_binaries(None, account, home)
        assert binaries is not None
        port = free_port()
        initdb: list[str | Path] = [binaries / "initdb", "--pgdata=data", "--no-sync"]
        initdb.append("--username=postgres")
        assert account.run(initdb, home, 60).status == 0
        with (home / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.213.87.0/30 trust\n")
        options = f"--listen_addresses={address} --port={port} --unix_socket_directories="
        control: list[str | Path] = [binaries / "pg_ctl", "--pgdata=data", "--wait"]
        start = [*control, "--log=log", f"--options={options}", "start"]
        assert account.run(start, home, 60).status == 0
        try:
            yield f"postgresql://postgres@{address}:{port}/postgres"
        finally:
            account.run([*control, "--mode=immediate", "stop"], home, 60)
