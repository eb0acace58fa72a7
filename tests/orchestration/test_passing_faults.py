"""Faults of PostgreSQL and of an object store that pass, and those that do not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import polars as pl
import pytest
import s3fs  # type: ignore[import-untyped]
from sqlalchemy import text

from mm_pipelines.orchestration.passing_faults import is_passing_fault, loses_the_database
from mm_pipelines.warehouse.database import Database
from tests.servers import free_port


def raised_by(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the test is about what it is
        action()
    return raised.value


def execute(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(text(statement))


def execute_in_bulk(database: Database, statement: str) -> None:
    with database.bulk() as connection:
        pl.read_database(statement, connection)


TERMINATED = "select pg_terminate_backend(pg_backend_pid())"
# The classes of errors that PostgreSQL raises while it restarts, fails over or is overloaded.
PASSING_CODES = ("08006", "40001", "40P01", "53300", "57P01", "57P02", "57P03")
LASTING_CODES = ("22012", "23505", "42P01", "42501")


def raises(code: str) -> str:
    return f"do $$ begin raise exception 'a fault' using errcode = '{code}'; end $$"


def test_a_terminated_backend_passes(database: Database) -> None:
    assert loses_the_database(raised_by(lambda: execute(database, TERMINATED)))


def test_a_terminated_backend_of_a_bulk_connection_passes(database: Database) -> None:
    error = raised_by(lambda: execute_in_bulk(database, TERMINATED))
    assert loses_the_database(error)


def test_a_terminated_lock_passes(database: Database) -> None:
    def lose() -> None:
        with database.lock("audience:a") as lock, lock.transaction() as connection:
            connection.execute(text(TERMINATED))

    assert type(raised_by(lose)).__name__ == "LockLostError"


def test_a_server_that_is_away_passes() -> None:
    away = Database(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert loses_the_database(raised_by(lambda: execute(away, "select 1")))
    assert loses_the_database(raised_by(lambda: execute_in_bulk(away, "select 1")))


@pytest.mark.parametrize("code", PASSING_CODES)
def test_the_passing_codes_of_postgresql(database: Database, code: str) -> None:
    assert loses_the_database(raised_by(lambda: execute(database, raises(code))))


@pytest.mark.parametrize("code", LASTING_CODES)
def test_other_codes_do_not_pass(database: Database, code: str) -> None:
    assert not is_passing_fault(raised_by(lambda: execute(database, raises(code))))


def test_a_wrong_statement_on_a_bulk_connection_does_not_pass(database: Database) -> None:
    error = raised_by(lambda: execute_in_bulk(database, "select * from mm.no_such_table"))
    assert not is_passing_fault(error)


@contextmanager
def object_store(status: int, code: str) -> Iterator[s3fs.S3FileSystem]:
    """An object store that answers every request in the same way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Write no log."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield store(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def store(port: int) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key="key",
        secret="secret",
        endpoint_url=f"http://127.0.0.1:{port}",
        config_kwargs={"retries": {"max_attempts": 1}},
        skip_instance_cache=True,
    )


def read(filesystem: s3fs.S3FileSystem) -> bytes:
    filesystem.retries = 1
    return bytes(filesystem.cat_file("bucket/key", start=0, end=10))


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"), (504, "Timeout")],
)
def test_an_overloaded_object_store_passes(status: int, code: str) -> None:
    with object_store(status, code) as filesystem:
        assert is_passing_fault(raised_by(lambda: read(filesystem)))


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey")])
def test_a_missing_or_forbidden_object_does_not_pass(status: int, code: str) -> None:
    with object_store(status, code) as filesystem:
        assert not is_passing_fault(raised_by(lambda: read(filesystem)))


def test_an_unreachable_object_store_passes() -> None:
    assert is_passing_fault(raised_by(lambda: read(store(free_port()))))
