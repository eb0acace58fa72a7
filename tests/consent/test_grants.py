"""A suppression that is lifted on purpose."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from mm_pipelines.consent.audience_search import search
from mm_pipelines.consent.opt_outs import OptOutSummary, suppress
from tests.consent.page import KEY, PLAN, Page, optin_event

REASON = ("--reason", "signed form 12")


@pytest.fixture(autouse=True)
def installation(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MM_HOME", str(tmp_path))
    monkeypatch.setenv("MM_CONFIG", str(Path(__file__).parents[1] / "mm.yaml"))
    monkeypatch.setenv("MM_DATABASE_URL", page.database.url)
    monkeypatch.setenv("MM_SUPPRESSION_KEY", KEY.current.decode())


def grant(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["consent", "grant", *arguments, *REASON], input=typed)


def suppressed(page: Page) -> int:
    return len(page.rows("select from mm.suppression"))


def test_an_email_is_no_longer_suppressed_and_the_reason_is_recorded(page: Page) -> None:
    page.request(email="Mary@example.com")
    page.request(email="john@example.com")
    suppress(page.database, PLAN, OptOutSummary())
    page.unsubscribe()
    assert suppressed(page) == 2
    done = grant("--email", "-", "--json", typed="mary@example.com\n")
    assert json.loads(done.stdout) == {"lifted": 1}
    assert suppressed(page) == 1
    ((named_by, reason, lifted),) = page.rows(
        "select named_by, reason, lifted from mm.consent_grant"
    )
    assert (named_by, reason, lifted) == ("email", "signed form 12", 1)


def test_an_open_opt_out_of_the_same_value_does_not_suppress_it_again(page: Page) -> None:
    page.request(email="mary@example.com")
    assert grant("--email", "mary@example.com").exit_code == 0
    suppress(page.database, PLAN, OptOutSummary())
    assert suppressed(page) == 0


def test_an_open_opt_out_with_other_identifiers_must_be_carried_out_first(page: Page) -> None:
    page.request(email="mary@example.com", psid="5551")
    refused = grant("--email", "mary@example.com")
    assert refused.exit_code == 1
    assert "other identifiers" in refused.stderr
    assert "mary" not in refused.stderr


@pytest.mark.parametrize("named", [("--psid", "5551"), ("--token", "8123")])
def test_a_person_on_messenger_is_sendable_again(page: Page, named: tuple[str, str]) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    page.store(optin_event(1, "5551", "8123", hour_ago))
    page.store(optin_event(2, "5551", "8123", hour_ago + timedelta(minutes=5), "STOP"))
    page.apply_webhooks()
    assert page.sendable() == set()
    assert grant("--page", "acme", *named).exit_code == 0
    assert page.sendable() == {"8123"}
    assert page.unsubscribe().confirmed == 0
    page.store(optin_event(3, "5551", "8123", datetime.now(UTC) + timedelta(seconds=5), "STOP"))
    assert page.sendable() == set()


def test_a_granted_person_is_not_searched_for_and_a_later_opt_out_is(page: Page) -> None:
    def values_searched_for() -> int:
        return search(page.database, page.storage, KEY).values

    page.request(email="mary@example.com")
    page.unsubscribe()
    assert (values_searched_for(), values_searched_for()) == (1, 0)
    assert grant("--email", "mary@example.com").exit_code == 0
    assert values_searched_for() == 0
    page.request(email="mary@example.com")
    page.unsubscribe()
    assert values_searched_for() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "exactly one"),
        (("--email", "a@example.com", "--psid", "1"), "exactly one"),
        (("--psid", "1"), "--page"),
        (("--email", "nobody"), "unusable"),
    ],
)
def test_what_cannot_be_granted_is_refused(
    page: Page, arguments: tuple[str, ...], message: str
) -> None:
    refused = grant(*arguments)
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert page.rows("select from mm.consent_grant") == []


def test_a_grant_that_lifts_nothing_says_so(page: Page) -> None:
    assert "was not suppressed" in grant("--email", "mary@example.com").stdout
