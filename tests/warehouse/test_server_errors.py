"""PostgreSQL quotes rows and values in its errors; our exceptions contain none of that."""

import traceback
from collections.abc import Callable
from io import StringIO

import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database

PERSON = "4b1d-a-person-3f9e"
MAKE_TABLE = """
create temporary table person (id bigint primary key, token text check (length(token) > 3))
"""


def statement(sql: str) -> Callable[[Database], None]:
    def run(database: Database) -> None:
        with database.transaction() as connection:
            connection.execute(text(f"{MAKE_TABLE} on commit drop"))
            connection.execute(text(sql), {"token": PERSON})

    return run


def copy(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text(f"{MAKE_TABLE} on commit drop"))
        connection.connection.cursor().copy_expert("copy person from stdin", StringIO(PERSON))


def bulk_rows(database: Database) -> None:
    people = pl.DataFrame({"id": [1, 1], "token": [PERSON, PERSON]})
    with database.bulk() as bulk, bulk.cursor() as cursor:
        cursor.execute("create temporary table person (id bigint, token text, unique (id, token))")
        cursor.adbc_ingest("person", people, mode="append", temporary=True)


def bulk_value(database: Database) -> None:
    with database.bulk() as bulk, bulk.cursor() as cursor:
        cursor.execute("select $1::text::bigint", (PERSON,))


def wrapped(database: Database) -> None:
    try:
        bulk_value(database)
    except Exception as error:
        raise RuntimeError("the caller's error") from error


def inside(database: Database) -> None:
    with database.transaction():
        wrapped(database)


@pytest.mark.parametrize(
    "fail",
    [
        statement("insert into person values (1, :token), (1, :token)"),
        statement("insert into person values (1, left(:token, 3))"),
        statement("insert into person values (null, :token)"),
        statement("select cast(:token as bigint)"),
        statement("select cast(:token as jsonb)"),
        statement("select no_such_column from person where token = :token"),
        copy,
        bulk_rows,
        bulk_value,
        inside,
    ],
)
def test_no_error_contains_a_value_of_a_row_or_a_statement(
    database: Database, fail: Callable[[Database], None]
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        fail(database)
    shown = "".join(traceback.format_exception(caught.value))
    # The test's own source lines are in a traceback, but never the value.
    assert PERSON not in shown
    assert "DETAIL" not in shown
    assert f"= {PERSON[:3]}" not in shown


def test_an_error_still_names_the_constraint(database: Database) -> None:
    with pytest.raises(Exception, match="person_pkey"):
        statement("insert into person values (1, :token), (1, :token)")(database)


def test_an_invalid_value_is_reported_by_its_sqlstate(database: Database) -> None:
    with pytest.raises(Exception, match="22P02"):
        statement("select cast(:token as bigint)")(database)
