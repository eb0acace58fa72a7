"""The made-up company of a simulation: its Pages, audiences and customers."""

import hashlib
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from mm_pipelines.suppression.keys import SuppressionKeys

CANARY = "canary"
"""Part of every e-mail address. It must occur in no log line and in no exception."""

FIRST_DAY = date(2026, 11, 2)
SUPPRESSION_KEY = SuppressionKeys(b"the simulation's suppression key")
SYSTEM_USER_TOKEN = "EAAsystemuser"
APP_ID = "1231312312312301"
BATCH_SIZE = 5
MINIMUM_UPLOAD = 8


@dataclass(frozen=True)
class Audience:
    """An audience of mm.yaml."""

    key: str
    page_id: str
    ad_account_id: str
    mode: Literal["append", "mirror"] = "append"


AUDIENCES = {
    audience.key: audience
    for audience in (
        Audience("north", page_id="1001", ad_account_id="5001"),
        Audience("south", page_id="1001", ad_account_id="5001"),
        Audience("members", page_id="1002", ad_account_id="5002", mode="mirror"),
    )
}
PAGE_IDS = tuple(dict.fromkeys(audience.page_id for audience in AUDIENCES.values()))


@dataclass(frozen=True, order=True)
class Customer:
    """A customer, named by a number."""

    number: int

    @property
    def email(self) -> str:
        """The address, as a list contains it."""
        return f"{CANARY}{self.number}@example.com"

    @property
    def phone(self) -> str:
        """A German mobile number with its country code."""
        return f"+491511{2_000_000 + self.number}"

    @property
    def row(self) -> str:
        """The member as the sandbox names it: e-mail hash, `|`, phone hash."""
        return f"{_sha256(self.email)}|{_sha256(self.phone.removeprefix('+'))}"


def customer_of_row() -> dict[str, Customer]:
    """Every customer that a story may contain, by member row."""
    return {customer.row: customer for customer in map(Customer, range(MOST_CUSTOMERS))}


MOST_CUSTOMERS = 60


def day(number: int) -> date:
    """A day of the story, counted from 0."""
    return FIRST_DAY + timedelta(days=number)


def list_path(home: Path, audience: str, of_day: date) -> Path:
    """Where an audience's list of a day lies."""
    return home / "lists" / audience / f"{of_day}.csv"


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
