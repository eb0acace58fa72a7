"""A STOP takes effect in the transaction that stores its event, before any run."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

from mm_pipelines.consent import opt_out_requests
from mm_pipelines.consent.messenger_events import apply_consent_events, parse_consent_event
from mm_pipelines.consent.opt_out_requests import NewRequest
from mm_pipelines.consent.opt_outs import OptOutSummary, suppress
from mm_pipelines.tokens import webhook_tokens
from mm_pipelines.tokens.details import mark_asked, tokens_worth_asking
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from mm_pipelines.webhooks.page_event import PageEvent
from mm_pipelines.webhooks.webhook_event import WebhookEvent
from tests.consent.page import PAGE_ID, PLAN, optin_event

T0 = datetime(2026, 11, 20, 12, tzinfo=UTC)
RECEIVER_GRANTS = """
grant usage on schema mm to {role};
grant insert, select (dedupe_key) on mm.webhook_event to {role};
"""


def store(database: Database, *events: WebhookEvent) -> None:
    with database.transaction() as connection:
        webhook_event.insert(connection, events)


def grant(database: Database, psid: str, token: str, minute: int = 0) -> None:
    """An opt-in that is already applied."""
    event = optin_event(int(psid) * 100 + minute, psid, token, T0 + timedelta(minutes=minute))
    store(database, event)
    apply_consent_events(database, PAGE_ID, "run")


def stop(number: int, psid: str, token: str | None = None, minute: int = 1) -> WebhookEvent:
    return optin_event(number, psid, token, T0 + timedelta(minutes=minute), "STOP NOTIFICATIONS")


def rows(database: Database, statement: str) -> list[Any]:
    with database.transaction() as connection:
        return list(connection.execute(text(statement)))


def sendable(database: Database) -> set[str]:
    return {row.token for row in rows(database, "select token from mm.sendable_token")}


@pytest.fixture
def receiver(database: Database) -> Iterator[Database]:
    """The same database through a role with the receiver's grants only."""
    role = f"receiver_{uuid.uuid4().hex[:8]}"
    with database.transaction() as connection:
        connection.exec_driver_sql(f"create role {role} login password 'test'")
        connection.exec_driver_sql(RECEIVER_GRANTS.format(role=role))
    url = make_url(database.url).set(username=role, password="test")
    receiver = Database(url.render_as_string(hide_password=False))
    yield receiver
    receiver.dispose()
    with database.transaction() as connection:
        connection.exec_driver_sql(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize("token", [None, "8123"])
def test_a_stored_stop_excludes_the_token_before_any_run(
    database: Database, token: str | None
) -> None:
    grant(database, "5551", "8123")
    assert sendable(database) == {"8123"}
    store(database, stop(1, "5551", token))
    assert sendable(database) == set()


def test_a_receiver_with_minimal_grants_stops_people(
    database: Database, receiver: Database
) -> None:
    grant(database, "5551", "8123")
    store(receiver, stop(1, "5551"), stop(1, "5551"))
    assert sendable(database) == set()
    with pytest.raises(ProgrammingError), receiver.transaction() as connection:
        connection.execute(text("select from mm.messenger_consent"))
    with pytest.raises(ProgrammingError), receiver.transaction() as connection:
        connection.execute(text("select payload from mm.webhook_event"))


def test_an_old_stop_does_not_undo_a_later_opt_in(database: Database) -> None:
    grant(database, "5551", "8123", minute=5)
    store(database, stop(1, "5551", "8123", minute=3))
    assert sendable(database) == {"8123"}


def test_a_stop_that_cannot_be_applied_is_stored_and_hinders_no_other(database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "alter table mm.messenger_consent add constraint broken check (contact <> '5551')"
        )
    store(database, stop(1, "5551"), stop(2, "5552"), stop(3, "9" * 5000))
    assert len(rows(database, "select from mm.webhook_event")) == 3
    stopped = rows(database, "select contact from mm.messenger_consent where stopped")
    assert [row.contact for row in stopped] == ["5552"]


def test_a_locked_contact_delays_the_receiver_for_a_moment_only(database: Database) -> None:
    store(database, stop(1, "5551", minute=1))
    with database.transaction() as connection:
        connection.execute(text("select from mm.messenger_consent for update"))
        begun = time.monotonic()
        store(database, stop(2, "5551", minute=2), stop(3, "5552", minute=2))
        assert time.monotonic() - begun < 4
    apply_consent_events(database, PAGE_ID, "run")
    stopped = rows(database, "select stopped_at from mm.messenger_consent order by contact")
    assert [row.stopped_at for row in stopped] == [T0 + timedelta(minutes=2)] * 2


def test_an_identifier_beyond_any_index_blocks_no_event(database: Database) -> None:
    store(database, optin_event(1, "9" * 5000, "8" * 5000, T0), stop(2, "5552"))
    assert apply_consent_events(database, PAGE_ID, "run").events == 2


anything: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
)
statuses = anything | st.sampled_from(
    ["STOP", "stop notifications", "STOP_NOTIFICATIONS", " Stop", "RESUME", "NONSTOP", "", "PAUSE"]
)
optins = st.fixed_dictionaries(
    {"type": st.just("notification_messages") | anything},
    optional={"notification_messages_status": statuses},
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    field=st.sampled_from(["messaging_optins", "messaging_optouts", "messages"]),
    key=st.sampled_from(["optin", "optout", "other"]),
    optin=optins | anything,
)
def test_sql_and_python_recognize_the_same_stops(
    database: Database, field: str, key: str, optin: Any
) -> None:
    payload = {"sender": {"id": "5551"}, key: optin}
    if "\\u0000" in json.dumps(payload) or "\\ud" in json.dumps(payload):
        return  # the receiver replaces these
    statement = text("select mm.is_stop(:field, cast(:payload as jsonb))")
    with database.transaction() as connection:
        found = connection.scalar(statement, {"field": field, "payload": json.dumps(payload)})
    event = PageEvent(1, field, PAGE_ID, T0, payload)
    expected = field != "messages" and parse_consent_event(event).action == "stopped"
    assert bool(found) == expected


def test_a_waiting_merge_delays_no_suppression_and_takes_no_lock_twice(database: Database) -> None:
    grant(database, "5551", "8123")
    with database.transaction() as connection:
        requests = [NewRequest(email="mary@example.com"), NewRequest(subscriber_token="8123")]
        opt_out_requests.receive(connection, PAGE_ID, requests, "command")
    run = threading.Thread(target=suppress, args=(database, PLAN, OptOutSummary()))
    with database.transaction() as merge:
        webhook_tokens.lock_page(merge, PAGE_ID)
        run.start()
        deadline = time.monotonic() + 10
        while not rows(database, "select from mm.suppression") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(rows(database, "select from mm.suppression")) == 1
        time.sleep(0.2)
        marked = "select from mm.subscription_token where stopped_at is not null"
        assert rows(database, marked) == []
        merge.execute(text("update mm.subscription_token set last_seen_at = now()"))
    run.join(10)
    assert not run.is_alive()
    assert len(rows(database, marked)) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [True, False])
def test_a_resume_without_an_expiry_keeps_the_known_one(
    database: Database, order: tuple[int, int], together: bool
) -> None:
    granted = optin_event(1, "5551", "8123", T0)
    payload = json.loads(granted.payload)
    payload["optin"]["token_expiry_timestamp"] = 1800000000
    resumed = optin_event(2, "5551", "8123", T0 + timedelta(minutes=1), "RESUME_NOTIFICATIONS")
    events = (replace(granted, payload=json.dumps(payload)), resumed)
    for place in order:
        store(database, events[place])
        if not together:
            apply_consent_events(database, PAGE_ID, "run")
    apply_consent_events(database, PAGE_ID, "run")
    ((expiry,),) = rows(database, "select expires_at from mm.subscription_token")
    assert expiry == datetime.fromtimestamp(1800000000, UTC)


def test_meta_is_asked_about_a_token_that_came_by_webhook(database: Database) -> None:
    grant(database, "5551", "8123")
    with database.transaction() as connection:
        assert tokens_worth_asking(connection, PAGE_ID, 10) == ["8123"]
        mark_asked(connection, PAGE_ID, ["8123"])
        assert tokens_worth_asking(connection, PAGE_ID, 10) == []
