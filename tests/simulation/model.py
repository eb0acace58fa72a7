"""What must be true of the company, small enough to be believed by reading."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from tests.simulation.company import AUDIENCES, Customer
from tests.simulation.process import Ended
from tests.simulation.runs import Work


@dataclass
class Model:
    """Who should be where, and who must not be messaged.

    Attributes:
        refused: Customers whose rows Meta refuses.
        lists: The customers of each audience's list, by day.
        opted_out: Customers who opted out by e-mail or phone.
        suppressed: Those of them whose suppression is committed.
        stopped: The people who stopped messages: (Page, Page-scoped ID).
        stored_stops: Those of them whose STOP the receiver stored.
        answered: The batches (session, number) that Meta accepted in a run that went on after it
            had the answer.
        webhooks: The bodies of all webhooks that the receiver stored; each is one event.
    """

    refused: frozenset[int]
    lists: dict[str, dict[date, set[Customer]]] = field(default_factory=lambda: defaultdict(dict))
    opted_out: dict[str, set[Customer]] = field(default_factory=lambda: defaultdict(set))
    suppressed: set[Customer] = field(default_factory=set)
    stopped: set[tuple[str, str]] = field(default_factory=set)
    stored_stops: set[tuple[str, str]] = field(default_factory=set)
    webhooks: set[bytes] = field(default_factory=set)
    answered: set[tuple[int, int]] = field(default_factory=set)
    _before_run: dict[Work, set[Customer]] = field(default_factory=dict)
    _suppressed_before_run: dict[Work, set[Customer]] = field(default_factory=dict)

    def listed(self, audience: str, day: date, customers: Sequence[Customer]) -> None:
        """A list was put in place."""
        self.lists[audience][day] = set(customers)

    def opted_out_anywhere(self) -> set[Customer]:
        """Who opted out; the suppression list holds for every Page."""
        return set().union(*self.opted_out.values())

    def note_opt_out(self, page_id: str, customer: Customer) -> None:
        """A customer opted out."""
        self.opted_out[page_id].add(customer)

    def members(self, audience: str) -> set[Customer]:
        """Who should be in the audience once everything is quiet."""
        lists = self.lists[audience]
        if not lists:
            return set()
        if AUDIENCES[audience].mode == "mirror":
            listed = lists[max(lists)]
        else:
            listed = set().union(*lists.values())
        refused = {Customer(number) for number in self.refused}
        return listed - self.opted_out_anywhere() - refused

    def note_stop(self, page_id: str, psid: str) -> None:
        """A person stopped the messages."""
        self.stopped.add((page_id, psid))

    def run_started(self, work: Work) -> None:
        """Remember what a run must respect."""
        self._before_run[work] = self.opted_out_anywhere()
        self._suppressed_before_run[work] = set(self.suppressed)

    def run_ended(self, work: Work, outcome: Ended | None) -> None:
        """An unsubscribes run that did not die has committed the suppressions first."""
        if work.asset == "unsubscribes" and outcome is not None and outcome.error is None:
            opted_out = self._before_run[work] & self.opted_out[work.key]
            self.suppressed |= opted_out

    def suppressed_before(self, work: Work) -> set[Customer]:
        """Who was suppressed when the run started: no upload of it may contain them."""
        return self._suppressed_before_run[work]

    def webhook_stored(self, body: bytes) -> None:
        """A STOP or RESUME counts from the moment when its webhook is stored."""
        self.webhooks.add(body)
        for entry in json.loads(body).get("entry", ()):
            for item in entry.get("messaging", ()):
                optin = item.get("optin", {})
                status = str(optin.get("notification_messages_status", ""))
                contact = (str(entry["id"]), str(item["sender"]["id"]))
                if status.startswith("STOP") and contact in self.stopped:
                    self.stored_stops.add(contact)
                elif status.startswith("RESUME"):
                    self.stored_stops.discard(contact)
