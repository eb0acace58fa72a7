"""A query is the whole membership of a mirrored audience: changes flow both ways."""

import sqlite3
from datetime import date, timedelta
from pathlib import Path

import pytest

from mm_pipelines.delivery.errors import TooManyRemovalsError
from mm_pipelines.lists import QuerySource, inspect_list
from mm_pipelines.payload import build_hashed_payload, registry
from tests.delivery.sandbox_delivery import DAY, SPEC, SandboxDelivery, keys, people

QUERY = "select email, phone from members where active and :day = :day order by email"


@pytest.fixture
def members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of 300 members."""
    path = tmp_path / "crm.sqlite"
    monkeypatch.setenv("CRM_URL", f"sqlite:///{path}")
    change(path, "create table members (email text, phone text, active integer default 1)")
    with sqlite3.connect(path) as connection:
        statement = "insert into members (email, phone) values (?, '+' || ?)"
        connection.executemany(statement, people(300))
    connection.close()
    return path


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


def hash_members(delivery: SandboxDelivery, day: date) -> None:
    source = QuerySource("the query of members", QUERY, "CRM_URL", SPEC.audience, day)
    report = inspect_list(source)
    payload = build_hashed_payload(
        source, delivery.storage, folder="hashed", expected_fingerprint=report.fingerprint
    )
    current = registry.HashedPayload(
        SPEC.audience, day, payload.sha256, payload.path, payload.accepted
    )
    with delivery.database.transaction() as connection:
        registry.record(connection, current)


def test_people_enter_and_leave_with_the_rows_of_the_query(
    delivery: SandboxDelivery, members: Path
) -> None:
    hash_members(delivery, DAY)
    delivery.upload(mode="mirror")
    assert delivery.sandbox.members() == keys(people(300))

    change(members, "update members set active = 0 where email = 'person7@example.com'")
    [newcomer] = people(1, start=900)
    row = f"('{newcomer[0]}', '+{newcomer[1]}')"
    change(members, f"insert into members (email, phone) values {row}")
    hash_members(delivery, DAY + timedelta(days=1))
    delivery.upload(mode="mirror", day=DAY + timedelta(days=1))

    stayed = [person for person in people(300) if person[0] != "person7@example.com"]
    assert delivery.sandbox.members() == keys([*stayed, newcomer])


def test_a_query_that_loses_many_rows_meets_the_removal_guard(
    delivery: SandboxDelivery, members: Path
) -> None:
    hash_members(delivery, DAY)
    delivery.upload(mode="mirror")
    change(members, "update members set active = 0 where rowid > 150")
    hash_members(delivery, DAY + timedelta(days=1))
    with pytest.raises(TooManyRemovalsError):
        delivery.upload(mode="mirror", day=DAY + timedelta(days=1))
    assert delivery.sandbox.members() == keys(people(300))
