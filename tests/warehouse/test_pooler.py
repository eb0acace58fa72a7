"""A pooler that does not keep sessions is noticed before a lock is trusted."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url, text

from mm_pipelines.local.accounts import Account
from mm_pipelines.warehouse.database import Database, LockTakenError
from mm_pipelines.warehouse.migrate import upgrade
from mm_pipelines.warehouse.pooler import PoolerError
from tests.servers import free_port, wait_until_listening
from tests.temporary_home import reachable_home

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs Debian's pgbouncer")


@contextmanager
def pgbouncer(database: Database, mode: str, *, ignored: str = "options") -> Iterator[Database]:
    """The database through pgbouncer."""
    url = make_url(database.url)
    host = url.query.get("host") or url.host
    port = free_port()
    account = Account.for_server(None)
    with reachable_home() as home:
        account.make_private(home)
        settings = home / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={host} port={url.query.get('port') or url.port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {mode}\nlogfile = {home}/log\n"
            f"ignore_startup_parameters = {ignored}\n"
        )
        settings.chmod(0o644)
        pooler = subprocess.Popen(
            [str(PGBOUNCER), "-q", settings],
            user=account.uid if account.dropped else None,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_listening(port)
            behind = Database(f"postgresql://postgres@127.0.0.1:{port}/{url.database}")
            yield behind
            behind.dispose()
        finally:
            pooler.terminate()
            pooler.wait(10)


def test_transaction_pooling_is_refused_before_a_lock_is_taken(database: Database) -> None:
    with pgbouncer(database, "transaction") as behind:
        with pytest.raises(PoolerError, match="transaction pooling"), behind.lock("audience:a"):
            pass
        with pytest.raises(PoolerError, match="pool_mode = session"):
            upgrade(behind)


def test_a_pooler_that_refuses_our_settings_is_named(database: Database) -> None:
    with (
        pgbouncer(database, "session", ignored="extra_float_digits") as behind,
        pytest.raises(PoolerError, match="ignore_startup_parameters = options"),
        behind.lock("audience:a"),
    ):
        pass


def test_session_pooling_keeps_locks(database: Database) -> None:
    with pgbouncer(database, "session") as behind:
        with behind.lock("audience:a"):
            with behind.transaction() as connection:
                assert connection.scalar(text("select 1")) == 1
            with pytest.raises(LockTakenError), database.lock("audience:a"):
                pass
        give_up = time.monotonic() + 10
        with database.lock("audience:a", wait=True):
            assert time.monotonic() < give_up
