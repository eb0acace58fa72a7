"""Pulls after opt-outs by e-mail or phone, whose audience tokens only a pull finds gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.consent import follow_up_pulls
from mm_pipelines.consent.follow_up_pulls import FOLLOW_UPS
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.warehouse.database import Database
from tests.consent.page import PAGE_ID, Page

MINUTE = timedelta(minutes=1)
AGO = st.integers(0, 10 * 24 * 60).map(lambda minutes: minutes * MINUTE)


@contextmanager
def history(
    database: Database, accepted_ago: list[timedelta], pulled_ago: timedelta | None
) -> Iterator[Connection]:
    """Opt-outs that Meta accepted, and the last complete pull; undone afterwards."""
    with database.engine.connect() as connection, connection.begin() as transaction:
        for ago in accepted_ago:
            connection.execute(
                text("""
                    insert into mm.unsubscribe_request (page_id, state, settled_at, named_contact)
                    values (:page_id, 'confirmed', now() - :ago, true)
                """),
                {"page_id": PAGE_ID, "ago": ago},
            )
        if pulled_ago is not None:
            connection.execute(
                text("""
                    insert into mm.token_pull (page_id, method, complete, started_at, finished_at)
                    values (:page_id, 'listing', true, now() - :ago, now() - :ago)
                """),
                {"page_id": PAGE_ID, "ago": pulled_ago},
            )
        yield connection
        transaction.rollback()


def is_due(connection: Connection) -> bool:
    return bool(follow_up_pulls.due(connection, [PAGE_ID], at_most_every=timedelta(0)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(accepted_ago=st.lists(AGO, max_size=3), pulled_ago=st.none() | AGO)
def test_a_pull_is_due_while_one_opt_out_lacks_a_follow_up(
    database: Database, accepted_ago: list[timedelta], pulled_ago: timedelta | None
) -> None:
    lacking = any(
        follow_up <= ago and (pulled_ago is None or pulled_ago > ago - follow_up)
        for ago in accepted_ago
        for follow_up in FOLLOW_UPS
    )
    with history(database, accepted_ago, pulled_ago) as connection:
        assert is_due(connection) == lacking
        found = follow_up_pulls.count(connection, PAGE_ID)
    assert found.without_pull == sum(pulled_ago is None or pulled_ago > ago for ago in accepted_ago)
    assert found.followed == sum(ago < FOLLOW_UPS[-1] for ago in accepted_ago)


def test_an_opt_out_by_email_is_followed_for_days_and_one_by_token_is_not(page: Page) -> None:
    page.request(subscriber_token="8123")
    page.unsubscribe()
    with page.database.transaction() as connection:
        assert not is_due(connection)
    page.request(email="mary@example.com", subscriber_token="8123")
    page.unsubscribe()
    for follow_up in FOLLOW_UPS:
        shift(page, "unsubscribe_request", "settled_at", f"now() - interval '{follow_up}'")
        with page.database.transaction() as connection:
            assert is_due(connection)
        page.pull()
        with page.database.transaction() as connection:
            assert not is_due(connection)
        shift(page, "token_pull", "started_at", "started_at - interval '30 days'")


def shift(page: Page, table: str, column: str, value: str) -> None:
    with page.database.transaction() as connection:
        connection.execute(text(f"update mm.{table} set {column} = {value} where true"))


@pytest.mark.parametrize("minutes", [10, 90])
def test_a_failed_pull_reports_the_opt_outs_that_no_pull_follows(
    page: Page, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    page.request(email="mary@example.com")
    page.unsubscribe()
    shift(page, "unsubscribe_request", "settled_at", f"now() - interval '{minutes} minutes'")
    page.sandbox("faults", path="*/notification_message_tokens", error={"code": 190})
    check = check_of(page, monkeypatch, succeeds=False)
    assert check.passed == (minutes < 60)
    assert check.metadata["without_pull"].value == 1
    check = check_of(page, monkeypatch, succeeds=True)
    assert check.passed
    assert (check.metadata["without_pull"].value, check.metadata["followed"].value) == (0, 1)


def check_of(page: Page, monkeypatch: pytest.MonkeyPatch, *, succeeds: bool) -> Any:
    monkeypatch.setenv("ACME_PAGE_TOKEN", "EAApage")
    result = dg.materialize(
        [subscription_tokens],
        partition_key="acme",
        raise_on_error=False,
        resources={
            "mm_database": DatabaseResource(url=page.database.url),
            "mm_graph_api": GraphApiResource(base_url=page.url, version="v26.0"),
            "mm_suppression": SuppressionResource(key="suppression key of the tests"),
        },
    )
    assert result.success == succeeds
    (check,) = (
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "opt_outs_followed_by_pull"
    )
    return check
