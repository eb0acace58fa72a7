"""Opted-out people stay removed over days with stale lists, kills and faults."""

import hashlib
import random
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest

from mm_pipelines.graph_api.messages import OptInRequest, send_opt_in_request
from mm_pipelines.payload import registry
from tests.consent.day import AUDIENCES
from tests.consent.page import PAGE_ID, Page

FIRST_DAY = date(2026, 11, 20)


def email(number: int) -> str:
    return f"person{number}@example.com"


def phone(number: int) -> str:
    return f"+1212{5550000 + number:07}"


def hashed(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


@dataclass
class Trial:
    """A Page with customers and people in Messenger; some opt out every day."""

    page: Page
    folder: Path
    customers: int
    talkers: int
    chance: random.Random
    gone_customers: set[int] = field(default_factory=set)
    gone_tokens: set[str] = field(default_factory=set)
    psid_of: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        """The list that never learns, and people who opted in."""
        rows = [f"{email(n)},{phone(n)},Mary" for n in range(self.customers)]
        (self.folder / "customers.csv").write_text(
            "email,phone,first_name\n" + "\n".join(rows) + "\n"
        )
        with self.page.client() as client:
            for number in range(self.talkers):
                psid = f"77000{number:06}"
                self.page.sandbox("people/message", page_id=PAGE_ID, psid=psid)
                prompt = OptInRequest(psid, "News", "https://example.com/news.png", "")
                send_opt_in_request(client, PAGE_ID, prompt)
                accepted = self.page.sandbox("people/accept", page_id=PAGE_ID, psid=psid)
                self.psid_of[accepted["subscription_token"]] = psid
        self.page.sandbox("settle")

    def leave(self, day: date, count: int) -> None:
        """Some leave by every way there is."""
        staying = sorted(set(range(self.customers)) - self.gone_customers)
        opt_outs = self.chance.sample(staying, count)
        self.gone_customers |= set(opt_outs)
        listed = []
        for place, number in enumerate(opt_outs):
            if place % 3 == 0:
                self.page.request("table", email=email(number).upper())
            elif place % 3 == 1:
                listed.append(f"{phone(number)},")
            else:
                listed.append(f",{hashed(email(number))}")
        listed += ["12,", ","]
        path = self.folder / f"leaving-{day}.csv"
        path.write_text("phone,email\n" + "\n".join(listed) + "\n")
        tokens = sorted(set(self.psid_of) - self.gone_tokens)
        for place, token in enumerate(self.chance.sample(tokens, min(6, len(tokens)))):
            self.gone_tokens.add(token)
            psid = self.psid_of[token]
            if place % 3 == 0:
                self.page.request("command", psid=psid)
            elif place % 3 == 1:
                self.page.request("table", subscriber_token=token)
            else:
                self.page.sandbox(
                    "people/stop", page_id=PAGE_ID, psid=psid, with_token=place % 2 == 0
                )
        self.page.sandbox("settle")

    def work(self, day: date, kills: int) -> None:
        """The day's work: killed at random times, then run to its end."""
        command = [
            sys.executable,
            "-m",
            "tests.consent.day",
            self.page.database.url,
            str(self.folder / "storage"),
            self.page.url,
            str(self.folder),
            day.isoformat(),
        ]
        for _ in range(kills):
            running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                running.wait(timeout=self.chance.uniform(1.2, 5.0))
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
        for path in ("*/unsubscribe", "*/users"):
            self.page.sandbox("faults", path=path, nth=2, error={"code": 2, "is_transient": True})
            self.page.sandbox("faults", path=path, nth=4, reset="after")
        for _ in range(2):  # what the sensor asks for while something is still due
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        self.page.sandbox("settle")

    def check(self) -> None:
        """No opted-out person is found anywhere."""
        gone = {hashed(email(n)) for n in self.gone_customers}
        gone |= {hashed(phone(n).removeprefix("+")) for n in self.gone_customers}
        for audience in httpx.get(f"{self.page.url}/_sandbox/audiences", timeout=60).json():
            url = f"{self.page.url}/_sandbox/audiences/{audience['audience_id']}/members"
            members = httpx.get(url, timeout=60).json()["keys"]
            assert len(members) == self.customers - len(self.gone_customers)
            assert not gone & {part for key in members for part in key.split("|")}
        assert not self.page.sendable() & self.gone_tokens
        assert (
            self.page.rows("select from mm.unsubscribe_request where state in ('received', 'sent')")
            == []
        )

    def check_payloads(self, day: date, gone_before: set[int]) -> None:
        """No payload contains a person who had opted out before its day."""
        gone = {hashed(email(n)) for n in gone_before}
        for audience in AUDIENCES:
            with self.page.database.transaction() as connection:
                payload = registry.current(connection, audience, day)
            assert payload is not None
            frame = pl.read_parquet(self.folder / "storage" / payload.path)
            assert not gone & set(frame["EMAIL"])


def run(trial: Trial, days: int, leavers_a_day: int, kills: int) -> None:
    trial.open()
    for number in range(days):
        day = FIRST_DAY + timedelta(days=number)
        before = set(trial.gone_customers)
        trial.leave(day, leavers_a_day)
        trial.work(day, kills)
        trial.check()
        trial.check_payloads(day, before)


def test_opted_out_people_are_removed_and_stay_removed(page: Page, tmp_path: Path) -> None:
    trial = Trial(page, tmp_path, customers=600, talkers=15, chance=random.Random(7))
    run(trial, days=2, leavers_a_day=30, kills=1)


@pytest.mark.slow
def test_ten_thousand_people_over_five_days(page: Page, tmp_path: Path) -> None:
    trial = Trial(page, tmp_path, customers=10_000, talkers=200, chance=random.Random(11))
    run(trial, days=5, leavers_a_day=400, kills=4)
