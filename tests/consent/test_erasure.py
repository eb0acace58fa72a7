"""A person is erased everywhere, with a receipt, whenever a run dies."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mm_pipelines.consent.erasure import receipts, requests
from mm_pipelines.consent.erasure.erase import RELEASED, ErasurePlan, ErasureSummary, erase
from mm_pipelines.consent.erasure.receipts import Entry
from mm_pipelines.consent.messenger_events import apply_consent_events, apply_messages
from mm_pipelines.consent.optin_requests import OptInPrompt, OptInSummary, send_optin_requests
from mm_pipelines.delivery import audience_keys
from mm_pipelines.delivery.upload import upload
from mm_pipelines.suppression.keys import SuppressionKeyError
from mm_pipelines.tokens.pull import pull_tokens
from tests.consent import erasing
from tests.consent.day import clean, context, hash_list, upload_plan
from tests.consent.page import KEY, PAGE_ID, Page, optin_event

PLAN = ErasurePlan([PAGE_ID, "234141414124123"], KEY, default_countries=[None, "US"])
TODAY = datetime.now(UTC).date()
AUDIENCE = "acme_newsletter"
PROMPT = OptInPrompt("News", "https://example.com/news.png", "news", None, "UTC")


def ask(page: Page, *, page_id: str | None = None, **identifiers: str) -> int:
    with page.database.transaction() as connection:
        return requests.receive(connection, page_id=page_id, **identifiers)


def run(page: Page, plan: ErasurePlan = PLAN) -> ErasureSummary:
    return erase(page.database, page.storage, plan)


def state(page: Page, request_id: int) -> str | None:
    with page.database.transaction() as connection:
        found = requests.find(connection, request_id)
    return found[0] if found else None


def receipt(page: Page, request_id: int) -> dict[tuple[str, str], Entry]:
    with page.database.transaction() as connection:
        entries = receipts.receipt(connection, request_id)
    return {(entry.kind, entry.place): entry for entry in entries}


def is_due(page: Page) -> bool:
    with page.database.transaction() as connection:
        return receipts.due_since(connection) is not None


def database_text(page: Page) -> str:
    """Every value of every table."""
    tables = page.rows(
        "select format('%I.%I', table_schema, table_name) as name from information_schema.tables"
        " where table_schema = 'mm' and table_type = 'BASE TABLE'"
    )
    return "\n".join(str(page.rows(f"select * from {table.name}")) for table in tables)


@pytest.fixture
def subscriber(page: Page) -> tuple[str, str]:
    """A person who wrote, was asked, opted in, and whose token was pulled."""
    psid = page.act("message")["psid"]
    page.apply_webhooks()
    page.rows(
        "insert into mm.optin_request (page_id, psid, title, asked_at, state)"
        f" values ('{PAGE_ID}', '{psid}', 'News', now(), 'sent') returning id"
    )
    event = optin_event(1, psid, "8123456", datetime.now(UTC))
    page.store(event)
    page.apply_webhooks()
    return psid, "8123456"


@pytest.mark.parametrize("named_by", ["psid", "token"])
def test_a_subscriber_is_removed_from_every_table(
    page: Page, subscriber: tuple[str, str], named_by: str
) -> None:
    psid, token = subscriber
    request_id = ask(page, page_id=PAGE_ID, **{named_by: psid if named_by == "psid" else token})
    assert is_due(page)
    run(page)
    page.unsubscribe()
    run(page)
    assert state(page, request_id) == "completed"
    assert not is_due(page)
    text = database_text(page)
    assert psid not in text
    assert token not in text
    found = receipt(page, request_id)
    assert found["table", "mm.conversation"].found == 1
    assert found["table", "mm.optin_request"].found == 1
    assert found["table", "mm.subscription_token"].found == 1
    assert found["table", "mm.webhook_event"].found == 2
    assert found["page", PAGE_ID].accepted_at is not None
    assert page.rows("select from mm.webhook_event where processed_at is null") == []


def test_another_person_keeps_everything(page: Page, subscriber: tuple[str, str]) -> None:
    tables = ("conversation", "optin_request", "subscription_token", "messenger_consent")
    before = [page.rows(f"select * from mm.{table}") for table in tables]
    ask(page, page_id=PAGE_ID, psid="999")
    ask(page, page_id="234141414124123", psid=subscriber[0])
    run(page)
    assert [page.rows(f"select * from mm.{table}") for table in tables] == before
    assert page.rows("select from mm.webhook_event where payload = '{}'") == []


def test_redelivered_and_later_webhooks_of_an_erased_person_are_ignored(
    page: Page, subscriber: tuple[str, str]
) -> None:
    psid, token = subscriber
    ask(page, page_id=PAGE_ID, psid=psid)
    run(page)
    page.store(optin_event(1, psid, token, datetime.now(UTC)))
    page.store(optin_event(2, psid, token, datetime.now(UTC) - timedelta(hours=1)))
    page.store(optin_event(3, psid, token, datetime.now(UTC), "STOP_NOTIFICATIONS"))
    page.act("message", psid)
    with pytest.raises(SuppressionKeyError):
        apply_consent_events(page.database, PAGE_ID, "run")
    assert apply_consent_events(page.database, PAGE_ID, "run", KEY).erased == 2
    assert apply_messages(page.database, PAGE_ID, "run", KEY) == 1
    page.unsubscribe()
    text = database_text(page)
    assert psid not in text
    assert token not in text


def test_an_erased_person_may_opt_in_again(page: Page, subscriber: tuple[str, str]) -> None:
    psid, _ = subscriber
    ask(page, page_id=PAGE_ID, psid=psid)
    run(page)
    page.store(optin_event(2, psid, "8999", datetime.now(UTC) + timedelta(seconds=1)))
    assert apply_consent_events(page.database, PAGE_ID, "run", KEY).granted == 1
    assert page.sendable() == {"8999"}


def test_a_pull_does_not_bring_an_erased_person_back(page: Page) -> None:
    psid = page.act("message")["psid"]
    page.apply_webhooks()
    with page.client() as client:
        send_optin_requests(page.database, client, PAGE_ID, PROMPT, OptInSummary())
    token = page.act("accept", psid)["subscription_token"]
    page.apply_webhooks()
    assert page.sendable() == {token}
    ask(page, page_id=PAGE_ID, token=token)
    run(page)
    with page.client() as client:
        pull_tokens(client, page.database, PAGE_ID, removal_share=1, suppression_keys=KEY)
    assert page.rows("select from mm.subscription_token") == []


@pytest.fixture
def members(page: Page, tmp_path: Path) -> Callable[[int, int], None]:
    """Uploads people to an audience."""

    def add(first: int, last: int) -> None:
        lines = [f"person{number}@example.com,Mary" for number in range(first, last)]
        path = tmp_path / "customers.csv"
        path.write_text("email,first_name\n" + "\n".join(lines) + "\n")
        hash_list(page.database, page.storage, str(path), AUDIENCE, TODAY)
        with page.client() as client:
            resources = context(page.database, page.storage, client)
            upload(resources, upload_plan(AUDIENCE, TODAY))

    return add


def test_a_member_of_an_audience_is_removed_at_meta(
    page: Page, members: Callable[[int, int], None]
) -> None:
    members(0, 20)
    request_id = ask(page, email="Person7@Example.com ")
    run(page)
    assert state(page, request_id) == "removed"
    assert page.rows("select from mm.erasure_request where email is not null") == []
    (audience,) = page.rows("select custom_audience_id as id from mm.custom_audience")
    entry = receipt(page, request_id)["custom_audience", audience.id]
    assert (entry.found, entry.accepted_at) == (1, None)

    with page.client() as client:
        clean(page.database, page.storage, client, TODAY)
    assert is_due(page)
    run(page)
    entry = receipt(page, request_id)["custom_audience", audience.id]
    assert entry.accepted_at is not None
    assert not is_due(page)


def test_a_request_is_open_until_its_files_are_removed(
    page: Page, members: Callable[[int, int], None]
) -> None:
    members(0, 20)
    request_id = ask(page, email="person7@example.com")
    run(page)
    files = [place for kind, place in receipt(page, request_id) if kind == "file"]
    assert files
    with page.client() as client:
        clean(page.database, page.storage, client, TODAY)
    page.unsubscribe()
    run(page)
    unanswered = [
        place
        for (kind, place), entry in receipt(page, request_id).items()
        if entry.removed_at is None and entry.accepted_at is None
    ]
    assert set(unanswered) == {*files, "234141414124123"}
    for path in files:
        page.storage.delete(path)
    run(page)
    assert all(receipt(page, request_id)["file", path].removed_at for path in files)


def test_a_released_audience_closes_its_entry(
    page: Page, members: Callable[[int, int], None]
) -> None:
    members(0, 20)
    request_id = ask(page, email="person7@example.com")
    run(page)
    audience_keys.forget(page.database, AUDIENCE)
    assert is_due(page)
    run(page)
    outcomes = {entry.outcome for entry in receipt(page, request_id).values()}
    assert outcomes == {None, RELEASED}


def test_an_erased_person_is_not_hashed_again(
    page: Page, members: Callable[[int, int], None]
) -> None:
    ask(page, email=hashlib.sha256(b"person7@example.com").hexdigest())
    run(page)
    members(0, 20)
    request_id = ask(page, email="person7@example.com")
    run(page)
    assert {kind for kind, _ in receipt(page, request_id)} == {"page"}


def test_an_unusable_request_is_rejected_and_forgotten(page: Page) -> None:
    request_id = ask(page, email="no address")
    run(page)
    assert state(page, request_id) == "rejected"
    assert "no address" not in database_text(page)


def test_killed_erasures_are_resumed(page: Page, tmp_path: Path) -> None:
    page.rows(
        f"with person as (select number::text as psid from generate_series(1, 18) as number),"
        f" written as (insert into mm.conversation (page_id, psid, last_message_at)"
        f" select '{PAGE_ID}', psid, now() from person)"
        f" insert into mm.erasure_request (page_id, psid) select '{PAGE_ID}', psid from person"
        f" returning id"
    )
    command = [sys.executable, erasing.__file__, page.database.url, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for removed in (3, 9):
        process = subprocess.Popen(command, env=environment)
        while count(page, "mm.conversation") > 18 - removed:
            assert process.poll() is None
        process.kill()
        process.wait()
        assert is_due(page)
    subprocess.run(command, env=environment, check=True)
    assert count(page, "mm.conversation") == 0
    assert count(page, "mm.erasure_receipt where kind = 'table' and found = 1") == 18
    assert page.unsubscribe().confirmed == 18


def count(page: Page, rows: str) -> int:
    (found,) = page.rows(f"select count(*) as rows from {rows}")
    return int(found.rows)
