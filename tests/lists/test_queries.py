"""A query gives the same rows as a file, and every fault of it a clear sentence."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import psycopg2
import pytest
from sqlalchemy import create_engine, make_url, text

from mm_pipelines.lists import (
    FileSource,
    ListChangedError,
    ListError,
    ListHeaderError,
    QuerySource,
    inspect_list,
)
from mm_pipelines.orchestration.passing_faults import is_passing_fault
from mm_pipelines.payload import build_hashed_payload
from mm_pipelines.storage import Storage

ENV = "TEST_WAREHOUSE_URL"
DAY = date(2026, 11, 20)
QUERY = "select email, phone, first_name from customers where updated_on = :day order by id"

Write = Callable[[str], None]


def _people(count: int) -> pl.DataFrame:
    draw = random.Random(1)
    return pl.DataFrame(
        {
            "id": range(count),
            "email": [f"person{draw.randrange(count)}@example.com" for _ in range(count)],
            "phone": [None if n % 7 == 0 else 4915100000000 + n for n in range(count)],
            "first_name": [draw.choice(["Zoë", "Ann", "", "Иван"]) for _ in range(count)],
            "updated_on": [DAY if n % 5 else date(2026, 11, 19) for n in range(count)],
        }
    )


PEOPLE = _people(300)
CREATE = (
    "create table customers (id integer primary key, email text, phone bigint, first_name text, "
    "updated_on date)"
)


def _insert() -> str:
    rows = PEOPLE.with_columns(pl.col("updated_on").cast(pl.String)).rows()
    return "insert into customers values " + ", ".join(map(str, rows)).replace("None", "null")


INSERT = _insert()


@contextmanager
def _postgresql(server_url: str, scheme: str) -> Iterator[tuple[str, Write]]:
    url = make_url(server_url).set(drivername="postgresql")
    connection = psycopg2.connect(url.render_as_string(hide_password=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("drop database if exists crm")
        cursor.execute("create database crm")
    own = url.set(database="crm")
    crm = psycopg2.connect(own.render_as_string(hide_password=False))
    crm.autocommit = True
    with crm.cursor() as cursor:
        cursor.execute(CREATE)
        cursor.execute(INSERT)
        yield own.set(drivername=scheme).render_as_string(hide_password=False), cursor.execute
    crm.close()
    with connection.cursor() as cursor:
        cursor.execute("drop database crm with (force)")
    connection.close()


@contextmanager
def _duckdb(folder: Path) -> Iterator[tuple[str, Write]]:
    path = folder / "crm.duckdb"

    def write(statement: str) -> None:
        with duckdb.connect(str(path)) as connection:
            connection.execute(statement)

    write(CREATE)
    write(INSERT)
    yield f"duckdb:///{path}", write


@contextmanager
def _sqlite(folder: Path, scheme: str) -> Iterator[tuple[str, Write]]:
    path = folder / "crm.sqlite"
    engine = create_engine(f"sqlite:///{path}")

    def write(statement: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(statement))

    write(CREATE)
    write(INSERT)
    engine.dispose()
    yield f"{scheme}:///{path}", write
    engine.dispose()


KINDS = ["postgresql", "postgresql+psycopg2", "duckdb", "sqlite", "sqlite+pysqlite"]


@pytest.fixture(params=KINDS)
def write(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Write]:
    """A database of customers whose URL is in ENV, and a function that writes to it."""
    kind = request.param
    if kind.startswith("postgresql"):
        database = _postgresql(request.getfixturevalue("server_url"), kind)
    elif kind == "duckdb":
        database = _duckdb(tmp_path)
    else:
        database = _sqlite(tmp_path, kind)
    with database as (url, statement):
        monkeypatch.setenv(ENV, url)
        yield statement


def source(query: str | Path = QUERY, **options: object) -> QuerySource:
    return QuerySource("the query of acme", query, ENV, "acme", DAY, **options)  # type: ignore[arg-type]


def fault(query: str | Path, **options: object) -> str:
    with pytest.raises(ListError) as caught:
        inspect_list(source(query, **options))
    # Otherwise the run would try again what no attempt can change.
    assert is_passing_fault(caught.value) == ("cannot be reached" in caught.value.fault)
    assert str(caught.value).startswith("the query of acme: ")
    assert "example.com" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value.fault


def test_the_payload_is_that_of_the_same_rows_in_a_file(write: Write, tmp_path: Path) -> None:
    rows = PEOPLE.filter(pl.col("updated_on") == DAY).select("email", "phone", "first_name")
    rows.write_csv(tmp_path / "list.csv")
    storage = Storage(str(tmp_path / "storage"))
    built = []
    for of in (source(), FileSource(str(tmp_path / "list.csv"))):
        report = inspect_list(of, default_country="DE")
        built.append(
            build_hashed_payload(
                of,
                storage,
                folder="hashed",
                default_country="DE",
                phone_convention=report.phone_spellings.convention(),
                expected_fingerprint=report.fingerprint,
            )
        )
        assert report.ordered
    assert built[0].read == rows.height
    assert built[0].sha256 == built[1].sha256


def test_the_fingerprint_depends_on_the_rows_and_not_on_their_order(write: Write) -> None:
    def fingerprint(query: str) -> str:
        return inspect_list(source(query)).fingerprint

    before = fingerprint(QUERY)
    assert fingerprint(QUERY + " desc") == before
    assert fingerprint(QUERY.replace(":day", ":previous_day")) != before
    doubled = "select * from customers union all select * from customers where id = 1"
    assert fingerprint(doubled) != fingerprint("select * from customers")


def test_a_row_changed_after_the_validation_is_noticed(write: Write, tmp_path: Path) -> None:
    report = inspect_list(source())
    write("update customers set first_name = 'Other' where id = 101")
    with pytest.raises(ListChangedError, match="The list changed after it was validated"):
        build_hashed_payload(
            source(),
            Storage(str(tmp_path / "storage")),
            folder="hashed",
            expected_fingerprint=report.fingerprint,
        )
    assert not list((tmp_path / "storage").rglob("*.parquet"))


def test_no_value_reaches_the_disk_of_the_run(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("update customers set email = 'canary.findme@example.com' where id < 200")
    area = tmp_path / "run"
    area.mkdir()
    monkeypatch.setenv("MM_HOME", str(area / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(area))
    found: list[Path] = []

    class Watching(Storage):
        def publish(self, folder, suffix, write):  # type: ignore[no-untyped-def]
            published = super().publish(folder, suffix, write)
            files = [path for path in area.rglob("*") if path.is_file()]
            found.extend(path for path in files if b"findme" in path.read_bytes())
            assert files
            return published

    built = build_hashed_payload(source(), Watching(str(area / "storage")), folder="hashed")
    assert built.accepted > 1
    assert found == []


def test_parameters_are_bound_and_never_spliced(write: Write) -> None:
    query = """
        select email, ':day' as fn, :audience as ln -- :nothing and 'an open quote
        from customers where :audience = 'acme' and id < 3 and updated_on <> :previous_day
    """
    quoting = source(query)
    [frame] = quoting.open().chunks()
    assert frame["FN"].unique().to_list() == [":day"]
    assert frame["LN"].unique().to_list() == ["acme"]
    hostile = QuerySource("the query of acme", query, ENV, "'; drop table customers --", DAY)
    assert list(hostile.open().chunks()) == []


def test_a_key_orders_the_rows(write: Write) -> None:
    unordered = QUERY.replace(" order by id", "").replace("select ", "select id, ") + " -- end"
    assert not inspect_list(source(unordered)).ordered
    report = inspect_list(source(unordered, key="id"))
    assert report.ordered
    frames = source(unordered, key="id").open().chunks()
    expected = PEOPLE.filter(pl.col("updated_on") == DAY).sort("id")["email"].to_list()
    assert pl.concat(frames)["EMAIL"].to_list() == expected


def test_a_query_without_rows_is_an_empty_list(write: Write) -> None:
    report = inspect_list(source("select email from customers where id < 0 order by id"))
    assert (report.rows, report.columns) == (0, {"EMAIL": ("email",)})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select nowhere as email from customers", "there is no column nowhere"),
        ("select email from nowhere", "there is no table nowhere"),
        ("select email frm customers where", "the query has a syntax error"),
        ("select first_name from customers", "no column is recognized as EMAIL or PHONE"),
        ("delete from customers", "the query is no SELECT"),
        ("select 1 as email; drop table customers", "the query has more than one statement"),
        ("select email from customers where id = :id", "unknown parameter :id"),
    ],
)
def test_a_faulty_query_has_a_clear_sentence(write: Write, query: str, expected: str) -> None:
    assert expected in fault(query)


def test_a_query_file_is_read(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "customers.sql"
    assert fault(path) == "there is no such file"
    path.write_text(QUERY + ";\n")
    assert inspect_list(source(path)).rows == 240


def test_an_unset_variable_and_an_unknown_database_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert fault(QUERY) == f"the environment variable {ENV} is not set"
    for url, expected in {
        "postgresql://me:secret@127.0.0.1:1/crm": f"cannot be reached; check the address in {ENV}",
        "postgresql+psycopg2://me:secret@127.0.0.1:1/crm": "the database cannot be reached",
        f"duckdb:///{tmp_path}/no.duckdb": f"the database file in {ENV} cannot be opened",
        f"sqlite:///{tmp_path}/no.sqlite": f"the database file in {ENV} cannot be opened",
        "nothing://secret": "the driver for nothing:// is not installed",
        "secret": "the address of the database is no URL",
    }.items():
        monkeypatch.setenv(ENV, url)
        said = fault(QUERY)
        assert expected in said
        assert "secret" not in said


class TestPostgreSQL:
    """What only a server has."""

    @pytest.fixture(params=["postgresql", "postgresql+psycopg2"])
    def write(
        self, request: pytest.FixtureRequest, server_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Write]:
        """A database of customers whose URL is in ENV, and a function that writes to it."""
        with _postgresql(server_url, request.param) as (url, statement):
            monkeypatch.setenv(ENV, url)
            yield statement

    def test_a_lost_connection_is_named(self, write: Write) -> None:
        many = (
            "select 'a' || n || '@example.com' as email, repeat('x', 200) as fn "
            "from generate_series(1, 2000000) as n"
        )
        chunks = source(many).open().chunks()
        next(chunks)
        write(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = 'crm' and pid <> pg_backend_pid()"
        )
        lost = "the connection was lost while the rows were read"
        with pytest.raises(ListError, match=lost) as caught:
            list(chunks)
        assert is_passing_fault(caught.value)

    def test_a_query_that_takes_too_long_is_canceled(self, write: Write) -> None:
        said = fault("select 'a@b.co' as email, pg_sleep(5)::text as note", timeout_minutes=0.002)
        assert said == "the query took longer than 0.002 minutes (timeout_minutes)"

    def test_a_query_that_writes_is_refused(self, write: Write) -> None:
        query = "with gone as (delete from customers returning email) select email from gone"
        assert fault(query) == "the query writes; it must be a SELECT"
        assert inspect_list(source()).rows == 240

    def test_a_value_of_the_wrong_type_is_not_quoted(self, write: Write) -> None:
        assert "cannot be converted" in fault(
            "select email, email::integer as phone from customers"
        )

    def test_an_array_is_refused_by_its_columns_name(self, write: Write) -> None:
        assert "the column 'email' has the type" in fault(
            "select array[email] as email from customers"
        )

    def test_numeric_and_dates_are_text(self, write: Write) -> None:
        query = "select 4915112345678.00::numeric as phone, date '1974-05-01' as dob"
        [frame] = source(query).open().chunks()
        assert frame.select("PHONE", "DOB").row(0) == ("4915112345678", "1974-05-01")

    def test_a_user_without_rights_is_named(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write("drop role if exists reader")
        write("create role reader login password 'right'")
        url = make_url(os.environ[ENV]).set(username="reader", password="right")
        monkeypatch.setenv(ENV, url.render_as_string(hide_password=False))
        assert fault(QUERY) == f"the user in {ENV} may not read customers; grant SELECT and USAGE"
        write("drop role reader")


def test_a_column_missing_for_the_mapping_is_named(write: Write) -> None:
    with pytest.raises(ListHeaderError, match="there is no column 'Mail'"):
        source(columns={"EMAIL": "Mail"}).open()
