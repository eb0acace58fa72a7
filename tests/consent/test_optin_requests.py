"""Opt-in requests: who may be asked, once, whatever happens."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mm_pipelines.consent import conversations, optin_request_ledger
from mm_pipelines.consent.conversations import Message
from mm_pipelines.consent.optin_requests import OptInPrompt, OptInSummary, send_optin_requests
from mm_pipelines.graph_api.errors import GraphApiError
from tests.consent.page import PAGE_ID, Page, optin_event

QUESTION = OptInPrompt(
    title="News of Acme",
    image_url="https://example.com/news.png",
    payload="newsletter",
    cta_text="SIGN_UP",
    timezone="UTC",
)


def writes(page: Page) -> str:
    """A new person writes to the Page, and the message is stored."""
    psid = str(page.act("message")["psid"])
    page.apply_webhooks()
    return psid


def ask(page: Page, prompt: OptInPrompt = QUESTION) -> OptInSummary:
    summary = OptInSummary()
    with page.client() as client:
        send_optin_requests(page.database, client, PAGE_ID, prompt, summary)
    return summary


def wrote(page: Page, psid: str, ago: timedelta) -> None:
    """A person that the sandbox does not know."""
    message = Message(PAGE_ID, psid, datetime.now(UTC) - ago, None)
    with page.database.transaction() as connection:
        conversations.record(connection, [message])


def asked(page: Page) -> list[tuple[str, str, str | None]]:
    rows = page.rows("select psid, state, why from mm.optin_request order by id")
    return [(row.psid, row.state, row.why) for row in rows]


def later(page: Page, hours: float) -> None:
    """Let time pass: what was done moves into the past."""
    gap = f"interval '{hours} hours'"
    with page.database.transaction() as connection:
        for statement in (
            f"update mm.conversation set asked_at = asked_at - {gap}",
            f"update mm.optin_request set asked_at = asked_at - {gap}",
        ):
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize("shape", ["nested", "flat"])
def test_a_person_who_wrote_is_asked_and_can_opt_in(page: Page, shape: str) -> None:
    page.sandbox("variants", optin_response=shape)
    psid = writes(page)
    assert ask(page).outcomes == {"sent": 1}
    token = page.act("accept", psid)["subscription_token"]
    page.apply_webhooks()
    assert page.sendable() == {token}
    ((granted_at,),) = page.rows("select granted_at from mm.optin_request")
    assert granted_at is not None


def test_a_person_is_asked_once_per_window(page: Page) -> None:
    psid = writes(page)
    ask(page)
    page.act("message", psid)
    page.apply_webhooks()
    assert ask(page).outcomes == {}
    assert page.calls("*/messages") == 1


def test_the_same_title_waits_for_a_week_and_another_does_not(page: Page) -> None:
    writes(page)
    ask(page)
    later(page, 25)
    assert ask(page).outcomes == {}
    other = OptInPrompt("Offers of Acme", QUESTION.image_url, "", None, "UTC")
    assert ask(page, other).outcomes.total() == 1


def test_a_person_is_not_asked_outside_the_window(page: Page) -> None:
    wrote(page, "5551", timedelta(hours=24))
    assert ask(page).outcomes == {}


def test_a_person_with_a_live_token_is_not_asked(page: Page) -> None:
    wrote(page, "5551", timedelta(minutes=1))
    page.store(optin_event(1, "5551", "8123", datetime.now(UTC)))
    page.apply_webhooks()
    assert ask(page).outcomes == {}


@pytest.mark.parametrize("named", [{"psid": "5551"}, {"subscriber_token": "8123"}])
def test_an_opted_out_person_is_not_asked(page: Page, named: dict[str, str]) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    page.store(optin_event(1, "5551", "8123", yesterday))
    page.apply_webhooks()
    wrote(page, "5551", timedelta(minutes=1))
    page.request("table", **named)
    assert ask(page).outcomes == {}


def test_a_pending_stop_prevents_the_request(page: Page) -> None:
    wrote(page, "5551", timedelta(minutes=1))
    page.store(optin_event(1, "5551", None, datetime.now(UTC), "STOP NOTIFICATIONS"))
    assert ask(page).outcomes == {}


def test_two_concurrent_runs_ask_each_person_once(page: Page) -> None:
    people = {writes(page) for _ in range(10)}
    runs = [threading.Thread(target=ask, args=(page,)) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(psid for psid, _, _ in asked(page)) == sorted(people)
    assert page.calls("*/messages") == len(people)


def test_a_request_without_an_answer_counts_as_sent(page: Page) -> None:
    psid = writes(page)
    page.sandbox("faults", path="*/messages", reset="after")
    assert ask(page).outcomes == {"unknown": 1}
    assert ask(page).outcomes == {}
    assert asked(page) == [(psid, "unknown", "AmbiguousOutcomeError")]
    assert page.calls("*/messages") == 1


@pytest.mark.parametrize(
    ("code", "subcode"),
    [(10, 2018278), (10, 2018065), (10, 2018108), (100, 2018001), (200, 1545041), (551, None),
     (9, 2018352)],
)  # fmt: skip
def test_an_error_about_one_person_skips_that_person(
    page: Page, code: int, subcode: int | None
) -> None:
    writes(page)
    writes(page)
    error = {"code": code} | ({"subcode": subcode} if subcode else {})
    page.sandbox("faults", path="*/messages", error=error)
    summary = ask(page)
    assert summary.outcomes == {"skipped": 1, "sent": 1}


@pytest.mark.parametrize(
    ("code", "subcode"), [(4, 2018022), (613, None), (10, 1893063), (190, 463)]
)
def test_an_error_about_the_page_stops_the_run_and_frees_the_person(
    page: Page, code: int, subcode: int | None
) -> None:
    writes(page)
    writes(page)
    error = {"code": code} | ({"subcode": subcode} if subcode else {})
    page.sandbox("faults", path="*/messages", error=error, times=None)
    with pytest.raises(GraphApiError):
        ask(page)
    assert [state for _, state, _ in asked(page)] == ["released"]


def test_a_reservation_of_a_dead_run_counts_as_asked(page: Page) -> None:
    psid = writes(page)
    with page.database.transaction() as connection:
        reservation = optin_request_ledger.reserve(
            connection, PAGE_ID, psid, QUESTION.title, QUESTION.payload
        )
    assert reservation is not None
    assert ask(page).outcomes == {}
    later(page, 2)
    assert ask(page).abandoned == 1
    assert asked(page)[0][1] == "unknown"


ASK = """
import sys
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database
from tests.consent.page import Page
from tests.consent.test_optin_requests import ask
ask(Page(Database(sys.argv[1]), Storage(sys.argv[2]), sys.argv[3]))
"""


def test_a_killed_run_asks_no_person_twice(page: Page, tmp_path: Path) -> None:
    people = {writes(page) for _ in range(12)}
    page.sandbox("faults", path="*/messages", times=None, latency_seconds=0.2)
    command = [sys.executable, "-c", ASK, page.database.url, str(tmp_path), page.url]
    running = subprocess.Popen(command)
    while len(asked(page)) < 4:
        time.sleep(0.02)
    running.kill()
    running.wait()
    subprocess.run(command, check=True)
    assert sorted(psid for psid, _, _ in asked(page)) == sorted(people)
    assert len(people) - 1 <= page.calls("*/messages") <= len(people)
    assert [state for _, state, _ in asked(page)].count("sent") >= len(people) - 1


def test_the_payload_is_kept_with_the_request_and_its_token(page: Page) -> None:
    psid = writes(page)
    ask(page)
    token = page.act("accept", psid)["subscription_token"]
    page.apply_webhooks()
    page.pull()
    assert page.rows("select psid, payload from mm.optin_request") == [(psid, "newsletter")]
    assert page.rows("select token, payload from mm.subscription_token") == [(token, "newsletter")]
    page.act("stop", psid)
    page.act("resume", psid)
    page.apply_webhooks()
    assert page.rows("select payload from mm.subscription_token") == [("newsletter",)]


def test_the_persons_own_time_zone_is_used_from_a_message_or_an_earlier_opt_in(
    page: Page,
) -> None:
    event = optin_event(1, "5551", "8123", datetime.now(UTC) - timedelta(days=40))
    details = json.loads(event.payload)
    details["optin"]["notification_messages_timezone"] = "Asia/Ho_Chi_Minh"
    details["optin"]["token_expiry_timestamp"] = 1_700_000_000
    page.store(replace(event, payload=json.dumps(details)))
    page.apply_webhooks()
    message = Message(PAGE_ID, "5552", datetime.now(UTC), "Europe/Berlin")
    with page.database.transaction() as connection:
        conversations.record(connection, [message])
    wrote(page, "5551", timedelta(0))
    wrote(page, "5553", timedelta(0))
    with page.database.transaction() as connection:
        zones = [
            reservation.timezone
            for psid in ("5551", "5552", "5553")
            if (
                reservation := optin_request_ledger.reserve(
                    connection, PAGE_ID, psid, QUESTION.title, QUESTION.payload
                )
            )
        ]
    assert zones == ["Asia/Ho_Chi_Minh", "Europe/Berlin", None]
