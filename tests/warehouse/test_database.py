"""Connections, transactions, locks and addresses of PostgreSQL."""

import traceback

import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database, LockLostError, LockTakenError
from mm_pipelines.warehouse.migrate import current, head, upgrade
from tests.sessions import end_the_locks_session


def test_migrations_go_up_once_and_then_find_nothing_to_do(database: Database) -> None:
    assert current(database) == head()
    assert upgrade(database) == head()


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def make_and_fail() -> None:
        with database.transaction() as connection:
            connection.execute(text("create table mm.left_behind ()"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        make_and_fail()
    with database.transaction() as connection:
        assert connection.scalar(text("select to_regclass('mm.left_behind')")) is None


def test_a_lock_has_one_holder_and_is_free_afterwards(database: Database) -> None:
    with database.lock("audience:a"):
        with database.lock("audience:b"):
            pass
        with pytest.raises(LockTakenError, match="audience:a"), database.lock("audience:a"):
            pass
    with database.lock("audience:a"):
        pass


def test_the_holder_of_a_lock_notices_that_it_was_lost(database: Database) -> None:
    with database.lock("audience:a") as lock:
        lock.confirm()
        end_the_locks_session(database)
        with database.lock("audience:a"):
            for _ in range(2):
                with pytest.raises(LockLostError, match="audience:a was lost"):
                    lock.confirm()


def test_a_lock_that_was_lost_unnoticed_is_left_without_a_fault(database: Database) -> None:
    with database.lock("audience:a"):
        end_the_locks_session(database)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_the_urls_that_people_are_given_work_and_never_show_their_password(scheme: str) -> None:
    database = Database(f"{scheme}://mm:secret@db.example/mm?sslmode=require")
    assert database.url == "postgresql://mm:secret@db.example/mm?sslmode=require"
    assert database.driver_url.drivername == "postgresql+psycopg2"
    assert "secret" not in repr(database)
    assert "secret" not in database.masked_url


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ValueError, match="MM_DATABASE_URL"):
        Database("mysql://db.example/mm")


def test_times_come_back_in_utc(database: Database) -> None:
    with database.transaction() as connection:
        assert connection.scalar(text("show timezone")) == "UTC"


def test_a_password_among_the_options_is_not_shown_either() -> None:
    database = Database("postgresql://mm@db.example/mm?password=secret&sslmode=require")
    assert "secret" in database.url
    assert "secret" not in database.masked_url
    assert "sslmode=require" in database.masked_url


@pytest.mark.parametrize("url", ["postgresql://mm:sec@ret:1@db.example/mm", "secret"])
def test_an_address_that_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="MM_DATABASE_URL") as caught:
        Database(url)
    assert "ret" not in "".join(traceback.format_exception(caught.value))
