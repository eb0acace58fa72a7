"""Consent events: every order of arrival has the result that their times imply."""

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from mm_pipelines.consent.messenger_events import ConsentSummary, apply_consent_events
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from tests.consent.page import PAGE_ID, Page, optin_event

T0 = datetime(2026, 11, 20, 12, tzinfo=UTC)
STOP, RESUME, GRANT = "STOP NOTIFICATIONS", "RESUME_NOTIFICATIONS", None
Event = tuple[str | None, str | None, int]
_numbers = itertools.count(1)

# What a person with two tokens says, through which of them (or none), and in which minute.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([GRANT, STOP, RESUME]), st.sampled_from("AB"), st.integers(0, 6)),
        st.tuples(st.just(STOP), st.none(), st.integers(0, 6)),
    ),
    min_size=1,
    max_size=6,
)


class Person:
    """A new person, whose events arrive one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.psid = f"5550{next(_numbers)}"

    def says(self, status: str | None, token: str | None, minute: int) -> ConsentSummary:
        """One event, and the run that takes it in."""
        when = T0 + timedelta(minutes=minute)
        named = f"{self.psid}{token}" if token else None
        event = optin_event(next(_numbers), self.psid, named, when, status)
        with self._database.transaction() as connection:
            webhook_event.insert(connection, [event])
        return apply_consent_events(self._database, PAGE_ID, "run")

    def sendable(self) -> set[str]:
        """The person's tokens that may be messaged."""
        statement = text("select token from mm.sendable_token where recipient_id = :psid")
        with self._database.transaction() as connection:
            tokens = connection.scalars(statement, {"psid": self.psid})
            return {token.removeprefix(self.psid) for token in tokens}

    def consent(self) -> list[tuple[object, ...]]:
        """What is known of the person and their tokens."""
        statement = text(
            "select contact_kind, contact, stopped_at, granted_at, stopped"
            " from mm.messenger_consent where starts_with(contact, :psid) order by 1, 2"
        )
        with self._database.transaction() as connection:
            rows = connection.execute(statement, {"psid": self.psid})
            return [(kind, contact.removeprefix(self.psid), *rest) for kind, contact, *rest in rows]


@pytest.fixture
def person(database: Database) -> Person:
    return Person(database)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=EVENTS, data=st.data())
def test_any_order_of_a_persons_events_ends_in_the_state_that_their_times_say(
    database: Database, events: list[Event], data: st.DataObject
) -> None:
    one, other = Person(database), Person(database)
    for event in events:
        one.says(*event)
    for event in data.draw(st.permutations(events)):
        other.says(*event)
    assert other.consent() == one.consent()
    assert other.sendable() == one.sendable()


def test_all_orders_of_grant_stop_and_resume_agree(database: Database) -> None:
    events = [(GRANT, "A", 1), (STOP, None, 2), (STOP, "A", 3), (GRANT, "B", 4)]
    for order in itertools.permutations(events):
        person = Person(database)
        for event in order:
            person.says(*event)
        assert person.sendable() == {"B"}


def test_a_stopped_person_is_not_sendable_until_a_later_resume(person: Person) -> None:
    person.says(GRANT, "A", 1)
    assert person.sendable() == {"A"}
    person.says(STOP, "A", 3)
    assert person.sendable() == set()
    assert person.says(RESUME, "A", 2).suppressions_lifted == 0
    assert person.sendable() == set()
    summary = person.says(RESUME, "A", 4)
    assert summary.suppressions_lifted == 2  # the token's and the person's
    assert person.sendable() == {"A"}


def test_a_stop_without_a_token_stops_every_token_of_the_person(person: Person) -> None:
    person.says(GRANT, "A", 1)
    person.says(STOP, None, 3)
    person.says(GRANT, "B", 2)
    assert person.sendable() == set()


def test_at_the_same_time_stopping_wins(person: Person) -> None:
    person.says(STOP, "A", 1)
    person.says(GRANT, "A", 1)
    assert person.sendable() == set()


@pytest.mark.parametrize("status", [STOP, "STOP_NOTIFICATIONS", " stop notifications "])
def test_stop_is_understood_in_every_spelling(person: Person, status: str) -> None:
    assert person.says(status, "A", 1).stopped == 1


def test_an_unknown_status_is_neither_consent_nor_opt_out(person: Person) -> None:
    person.says(GRANT, "A", 1)
    assert person.says("PAUSE", "A", 2).other == 1
    assert person.sendable() == {"A"}


def test_a_stop_becomes_an_opt_out_request(page: Page, person: Person) -> None:
    person.says(STOP, "A", 1)
    (row,) = page.rows("select * from mm.unsubscribe_request")
    assert (row.source, row.state, row.psid) == ("stop", "received", person.psid)
    assert row.requested_at == T0 + timedelta(minutes=1)


def test_an_event_takes_effect_once(page: Page, person: Person) -> None:
    person.says(STOP, "A", 1)
    assert apply_consent_events(page.database, PAGE_ID, "again").events == 0
    assert len(page.rows("select from mm.unsubscribe_request")) == 1


def test_a_message_opens_the_window_and_its_words_are_nowhere(page: Page) -> None:
    psid = page.act("message", text="a secret of mine")["psid"]
    page.apply_webhooks()
    ((kept,),) = page.rows(f"select last_message_at from mm.conversation where psid = '{psid}'")
    assert abs(datetime.now(UTC) - kept) < timedelta(minutes=1)
    assert not page.rows("select from mm.webhook_event where payload::text like '%secret%'")


@pytest.mark.parametrize("expiry", [5000 * "9", "99999999999999999", "-1", "soon"])
def test_an_invalid_expiry_does_not_block_the_event(page: Page, expiry: str) -> None:
    event = optin_event(1, "5551", "8123", T0)
    payload = json.loads(event.payload)
    payload["optin"]["token_expiry_timestamp"] = expiry
    page.store(replace(event, payload=json.dumps(payload)))
    assert apply_consent_events(page.database, PAGE_ID, "run").granted == 1
