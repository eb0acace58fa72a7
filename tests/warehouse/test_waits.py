"""No wait for PostgreSQL is endless, whatever lies between it and us."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from mm_pipelines.warehouse.database import Database, LockLostError, LockTakenError
from tests.silent_proxy import SilentProxy
from tests.tcp_server import server_on_tcp

# Returns the session's bounds as they were sent; on a Unix socket `show` says 0.
_BOUNDS = text("""
select name, reset_val from pg_settings
where name ~ '^tcp_|^client_connection_check|^statement_timeout'
""")


def test_a_silent_connection_fails_a_transaction_and_is_replaced(database: Database) -> None:
    with SilentProxy.before(database) as proxy:
        behind = Database(proxy.url, answer_seconds=1)

        def select_in_silence() -> None:
            with behind.transaction() as connection:
                connection.execute(text("select 1"))
                proxy.silence()
                connection.execute(text("select 1"))

        begun = time.monotonic()
        with pytest.raises(OperationalError):
            select_in_silence()
        assert time.monotonic() - begun < 10
        with behind.transaction() as connection:
            assert connection.scalar(text("select 1")) == 1
        behind.dispose()


def test_a_commit_into_silence_fails(database: Database) -> None:
    with SilentProxy.before(database) as proxy:
        behind = Database(proxy.url, answer_seconds=1)

        def commit_in_silence() -> None:
            with behind.transaction() as connection:
                connection.execute(text("select 1"))
                proxy.silence()

        with pytest.raises(OperationalError):
            commit_in_silence()
        behind.dispose()


def test_a_waiting_connection_that_became_silent_is_replaced_soon(database: Database) -> None:
    with SilentProxy.before(database) as proxy:
        behind = Database(proxy.url)
        with behind.transaction() as connection:
            connection.execute(text("select 1"))
        proxy.silence()
        begun = time.monotonic()
        with behind.transaction() as connection:
            assert connection.scalar(text("select 1")) == 1
        assert time.monotonic() - begun < 15
        behind.dispose()


def test_the_holder_of_a_lock_behind_a_silent_proxy_notices(database: Database) -> None:
    with SilentProxy.before(database) as proxy:
        behind = Database(proxy.url)
        with behind.lock("audience:a") as lock:
            lock.confirm()
            proxy.silence()
            with pytest.raises(LockLostError):
                lock.confirm()


def test_a_late_statement_is_canceled_by_the_server(database: Database) -> None:
    hasty = Database(database.url, answer_seconds=0.2)
    with pytest.raises(OperationalError, match="timeout"), hasty.transaction() as connection:
        connection.execute(text("select pg_sleep(10)"))
    patient = hasty.transaction(answer_seconds=10)
    with patient as connection:
        connection.execute(text("select pg_sleep(0.5)"))
    hasty.dispose()


def test_a_lock_is_waited_for_until_it_is_free(database: Database) -> None:
    with database.lock("audience:a"):
        holder = subprocess.Popen([sys.executable, "-c", _WAIT_FOR_LOCK, database.url])
        with pytest.raises(subprocess.TimeoutExpired):
            holder.wait(4)
    assert holder.wait(30) == 0


_WAIT_FOR_LOCK = """
import sys
from mm_pipelines.warehouse.database import Database
with Database(sys.argv[1]).lock("audience:a", wait=True):
    pass
"""


def test_the_bounds_are_part_of_every_kind_of_connection(database: Database) -> None:
    expected = {
        "client_connection_check_interval": "10000",
        "statement_timeout": "900000",
        "tcp_keepalives_count": "3",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_user_timeout": "60000",
    }
    with database.transaction() as connection:
        assert dict(connection.execute(_BOUNDS).tuples().all()) == expected
    with database.lock("audience:a") as lock, lock.transaction() as connection:
        assert dict(connection.execute(_BOUNDS).tuples().all()) == expected
    with database.bulk() as bulk, bulk.cursor() as cursor:
        cursor.execute(str(_BOUNDS))
        names, values = cursor.fetch_polars().to_dict(as_series=False).values()
        assert dict(zip(names, values, strict=True)) == expected
    assert database.bounded_url.query["connect_timeout"] == "10"


def test_a_bound_in_the_url_takes_precedence() -> None:
    url = "postgresql://db/mm?connect_timeout=3&options=-cstatement_timeout%3D5"
    bounded = Database(url).bounded_url
    assert bounded.query["connect_timeout"] == "3"
    assert str(bounded.query["options"]).endswith("-cstatement_timeout=5")


# A host that disappears: its network is cut, so that nothing of its end reaches the server.

_NAMESPACE = "mm-tests-client"
_SERVER, _CLIENT = "10.213.87.1", "10.213.87.2"

_HOLD_LOCK = """
import sys, time
from mm_pipelines.warehouse.database import Database
with Database(sys.argv[1]).lock("audience:a"):
    print("held", flush=True)
    time.sleep(600)
"""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def network_of_a_client() -> Iterator[None]:
    """A network namespace that reaches this host through a cable of its own."""
    try:
        _ip("netns", "add", _NAMESPACE)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces need root and iproute2")
    try:
        _ip("link", "add", "mm-host", "type", "veth", "peer", "mm-client", "netns", _NAMESPACE)
        _ip("addr", "add", f"{_SERVER}/30", "dev", "mm-host")
        _ip("link", "set", "mm-host", "up")
        _ip("-n", _NAMESPACE, "addr", "add", f"{_CLIENT}/30", "dev", "mm-client")
        _ip("-n", _NAMESPACE, "link", "set", "mm-client", "up")
        yield
    finally:
        _ip("netns", "del", _NAMESPACE)


@pytest.mark.slow
def test_the_lock_of_a_host_that_disappeared_is_free_within_two_minutes() -> None:
    with network_of_a_client(), server_on_tcp(_SERVER) as url:
        holder = subprocess.Popen(
            ["ip", "netns", "exec", _NAMESPACE, sys.executable, "-c", _HOLD_LOCK, url],
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        database = Database(url)
        with pytest.raises(LockTakenError), database.lock("audience:a"):
            pass
        _ip("-n", _NAMESPACE, "link", "set", "mm-client", "down")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        begun = time.monotonic()
        with database.lock("audience:a", wait=True):
            assert time.monotonic() - begun < 120
