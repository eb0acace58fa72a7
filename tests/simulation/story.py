"""A story: what happens to the company, generated from a seed as a list of events.

Every event carries all that it needs, so a story without some of its events is a story too. The
search for the shortest failing story relies on this.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.simulation.company import AUDIENCES, MOST_CUSTOMERS, PAGE_IDS

HOUR = 3600.0
DAY = 24 * HOUR

Contact = Literal["email", "phone"]
Edge = Literal["/users", "/customaudiences", "/notification_message_tokens", "/unsubscribe"]
Quota = Literal["application", "ad_account", "custom_audience", "page", "token_listing"]


@dataclass(frozen=True)
class Event:
    """Something that happens at a time, in seconds since the story began."""

    at: float


@dataclass(frozen=True)
class ListArrives(Event):
    """An audience's list of a day is put in place, or gets more customers."""

    audience: str
    day: int
    customers: tuple[int, ...]


@dataclass(frozen=True)
class OptOut(Event):
    """A customer opts out of a Page by e-mail or phone."""

    page_id: str
    customer: int
    contact: Contact


@dataclass(frozen=True)
class Stop(Event):
    """A person who opted in on Messenger stops the messages."""

    page_id: str
    person: int


@dataclass(frozen=True)
class Resume(Event):
    """A person who stopped the messages resumes them."""

    page_id: str
    person: int


@dataclass(frozen=True)
class CallFails(Event):
    """The next call to an edge fails.

    `answer_lost` and `killed_after` happen after the call took effect, the others before.
    """

    edge: Edge
    how: Literal[
        "answer_lost", "not_sent", "server_error", "killed_before", "killed_after", "database_gone"
    ]


@dataclass(frozen=True)
class RunDies(Event):
    """The next run that starts is killed at one of its statements."""

    statement: int
    after_commit: bool


@dataclass(frozen=True)
class Throttled(Event):
    """Meta refuses every call under a quota for some time."""

    quota: Quota
    subject: str
    seconds: float


@dataclass(frozen=True)
class WebhookFails(Event):
    """The next webhook is lost, doubled or late, or the receiver's answer to it is."""

    how: Literal["lost", "doubled", "late", "refused", "answer_lost"]


@dataclass(frozen=True)
class WebhooksReversed(Event):
    """The webhooks that are not delivered yet arrive in reverse order."""


@dataclass(frozen=True)
class OtherAppReports(Event):
    """Another app uploads to one of our audiences, and Meta reports that to us too."""

    audience: str
    rows: int


@dataclass(frozen=True)
class Story:
    """A seed, the customers that Meta refuses, and the events in the order of their times."""

    seed: int
    refused: tuple[int, ...]
    events: tuple[Event, ...]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, Meta refuses the rows of customers {self.refused or 'none'}"]
        for event in self.events:
            name, _, values = repr(event).partition("(at=")
            at, _, rest = values.rstrip(")").partition(", ")
            hours = float(at) / HOUR
            lines.append(f"  day {int(hours // 24)} {hours % 24:05.2f} h  {name} {rest}")
        return "\n".join(lines)

    def with_events(self, events: Sequence[Event]) -> "Story":
        """The same story with other events."""
        return Story(self.seed, self.refused, tuple(sorted(events, key=lambda event: event.at)))


def make_story(seed: int) -> Story:
    """Make up the story of a seed."""
    chance = random.Random(seed)
    days = chance.randint(1, 3)
    events: list[Event] = []
    for number in range(days):
        for audience in AUDIENCES:
            if chance.random() < 0.55:
                events += _lists(chance, audience, number)
    opt_outs = chance.randint(0, 4)
    events += [_opt_out(chance, days) for _ in range(opt_outs)]
    for _ in range(chance.randint(0, 3)):
        events += _messenger(chance, days)
    events += [_fault(chance, days) for _ in range(chance.randint(0, 6))]
    refused = tuple(sorted(chance.sample(range(MOST_CUSTOMERS), chance.choice((0, 0, 0, 1, 2)))))
    return Story(seed, refused, ()).with_events(events)


def _lists(chance: random.Random, audience: str, number: int) -> list[Event]:
    customers = tuple(sorted(chance.sample(range(MOST_CUSTOMERS), chance.randint(1, 24))))
    at = number * DAY + chance.uniform(0, 12 * HOUR)
    arrives = ListArrives(at, audience, number, customers)
    if chance.random() < 0.8:
        return [arrives]
    more = tuple(sorted({*customers, *chance.sample(range(MOST_CUSTOMERS), 3)}))
    return [arrives, ListArrives(at + chance.uniform(60, 6 * HOUR), audience, number, more)]


def _opt_out(chance: random.Random, days: int) -> Event:
    page_id = chance.choice(PAGE_IDS)
    customer = chance.randrange(MOST_CUSTOMERS)
    return OptOut(_time(chance, days), page_id, customer, chance.choice(("email", "phone")))


def _messenger(chance: random.Random, days: int) -> list[Event]:
    page_id, person, at = chance.choice(PAGE_IDS), chance.randrange(3), _time(chance, days)
    events: list[Event] = [Stop(at, page_id, person)]
    if chance.random() < 0.4:
        events.append(Resume(at + chance.uniform(1, 2 * HOUR), page_id, person))
    return events


def _fault(chance: random.Random, days: int) -> Event:
    at = _time(chance, days)
    kind = chance.randrange(6)
    if kind == 0:
        edge = chance.choice(("/users", "/users", "/users", *_EDGES))
        return CallFails(at, edge, chance.choice(_CALL_FAULTS))
    if kind == 1:
        return RunDies(at, chance.randint(1, 60), chance.random() < 0.5)
    if kind == 2:
        quota = chance.choice(_QUOTAS)
        subject = chance.choice(_SUBJECTS[quota])
        return Throttled(at, quota, subject, chance.uniform(30, 2 * HOUR))
    if kind == 3:
        return WebhookFails(at, chance.choice(_WEBHOOK_FAULTS))
    if kind == 4:
        return WebhooksReversed(at)
    return OtherAppReports(at, chance.choice(list(AUDIENCES)), chance.randint(1, 10))


def _time(chance: random.Random, days: int) -> float:
    return chance.uniform(0, days * DAY)


_EDGES: tuple[Edge, ...] = (
    "/users",
    "/customaudiences",
    "/notification_message_tokens",
    "/unsubscribe",
)
_CALL_FAULTS: tuple[
    Literal[
        "answer_lost", "not_sent", "server_error", "killed_before", "killed_after", "database_gone"
    ],
    ...,
] = ("answer_lost", "not_sent", "server_error", "killed_before", "killed_after", "database_gone")
_WEBHOOK_FAULTS: tuple[Literal["lost", "doubled", "late", "refused", "answer_lost"], ...] = (
    "lost",
    "doubled",
    "late",
    "refused",
    "answer_lost",
)
_ACCOUNTS = tuple(
    f"act_{number}" for number in sorted({a.ad_account_id for a in AUDIENCES.values()})
)
_SUBJECTS: dict[Quota, tuple[str, ...]] = {
    "application": ("app",),
    "ad_account": _ACCOUNTS,
    "custom_audience": _ACCOUNTS,
    "page": PAGE_IDS,
    "token_listing": PAGE_IDS,
}
_QUOTAS: tuple[Quota, ...] = tuple(_SUBJECTS)
