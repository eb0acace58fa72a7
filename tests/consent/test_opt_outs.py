"""Opt-out requests: suppressed, unsubscribed at Meta, closed, identifiers erased."""

from datetime import date
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from mm_pipelines.consent.opt_outs import OptOutPlan, OptOutSummary, receive_list
from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.graph_api.messages import OptInRequest, send_opt_in_request
from mm_pipelines.lists.errors import ListRowError
from mm_pipelines.suppression.digests import suppression_digest
from mm_pipelines.suppression.keys import SuppressionKeyError, SuppressionKeys
from tests.consent.page import KEY, PAGE_ID, PLAN, Page

MARY = "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79"
PHONE = "1ef970831d7963307784fa8688e8fce101a15685d62aa765fed23f3a2c576a4e"
DAY = date(2026, 11, 20)


def states(page: Page) -> list[tuple[str, str | None]]:
    return [
        (row.state, row.why)
        for row in page.rows("select state, why from mm.unsubscribe_request order by id")
    ]


def identifiers_kept(page: Page) -> int:
    return len(
        page.rows(
            "select from mm.unsubscribe_request"
            " where num_nonnulls(phone, email, psid, subscriber_token) > 0"
        )
    )


@pytest.mark.parametrize(
    "named",
    [
        {"email": " Mary@Example.com "},
        {"phone": "(555) 987-6543"},
        {"phone": "+1 555 987 6543"},
        {"email": MARY.upper()},
        {"email": "mary@example.com", "phone": PHONE},
        {"psid": "5551"},
        {"subscriber_token": "8123"},
        {"email": "mary@example.com", "psid": "5551", "subscriber_token": "8123"},
    ],
)
def test_every_permitted_combination_of_identifiers_is_carried_out(
    page: Page, named: dict[str, str]
) -> None:
    page.request(**named)
    summary = page.unsubscribe()
    assert (summary.confirmed, summary.rejected) == (1, 0)
    assert states(page) == [("confirmed", None)]
    assert identifiers_kept(page) == 0


def test_an_opt_out_is_stored_as_a_keyed_digest_only(page: Page) -> None:
    page.request(email="Mary@example.com", phone="+15559876543")
    page.unsubscribe()
    digests = page.rows("select digest from mm.suppression")
    assert {row[0] for row in digests} == {
        suppression_digest(MARY, KEY.current),
        suppression_digest(PHONE, KEY.current),
    }


def test_a_new_suppression_renews_the_senders_file_once(page: Page) -> None:
    page.request(email="mary@example.com")
    page.unsubscribe()
    assert page.rows("select page_id, reason from mm.sendable_change") == [(PAGE_ID, "consent")]
    page.request(email="Mary@example.com")
    page.unsubscribe()
    assert len(page.rows("select from mm.sendable_change")) == 1


def test_a_request_is_suppressed_even_if_meta_cannot_be_reached(page: Page) -> None:
    page.request(email="mary@example.com")
    page.sandbox("faults", path="*/unsubscribe", error={"code": 190})
    with pytest.raises(TokenError):
        page.unsubscribe()
    assert states(page) == [("sent", None)]
    assert identifiers_kept(page) == 1
    assert page.rows("select digest from mm.suppression")


def test_an_opt_out_by_psid_or_token_is_effective_when_it_commits(page: Page) -> None:
    psid = page.act("message")["psid"]
    page.apply_webhooks()
    with page.client() as client:
        send_opt_in_request(client, PAGE_ID, OptInRequest(psid, "News", "https://example.com", ""))
    token = page.act("accept", psid)["subscription_token"]
    page.apply_webhooks()
    page.pull()
    assert page.sendable() == {token}
    page.request("table", subscriber_token=token)
    assert page.sendable() == set()


def test_one_unusable_field_does_not_prevent_an_opt_out(page: Page) -> None:
    page.request(email="mary@example.com", phone="12")
    page.unsubscribe()
    assert states(page) == [("confirmed", "ignored because unusable: phone")]


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"phone": "12"}, "unusable: phone"),
        ({"email": "mary at example"}, "unusable: email"),
        ({"psid": "not a number"}, "unusable: psid"),
        ({"email": "  "}, "every identifier is blank"),
    ],
)
def test_a_request_without_a_usable_identifier_is_rejected_with_the_reason(
    page: Page, named: dict[str, str], why: str
) -> None:
    page.request(**named)
    assert page.unsubscribe().rejected == 1
    assert states(page) == [("rejected", why)]
    assert page.calls("*/unsubscribe") == 0


def test_a_phone_without_country_code_needs_a_country(page: Page) -> None:
    page.request(phone="030 1234567")
    page.unsubscribe(OptOutPlan(PAGE_ID, KEY, default_country=None))
    assert states(page) == [("rejected", "unusable: phone")]
    page.request(phone="030 1234567")
    page.unsubscribe(OptOutPlan(PAGE_ID, KEY, default_country="DE"))
    assert states(page)[-1] == ("confirmed", None)


def test_the_database_refuses_a_request_without_an_identifier(page: Page) -> None:
    with pytest.raises(IntegrityError, match="names_someone"):
        page.request("table")


def test_another_suppression_key_is_refused_and_the_message_names_the_setting(page: Page) -> None:
    page.request(email="mary@example.com")
    page.unsubscribe()
    page.request(email="john@example.com")
    with pytest.raises(SuppressionKeyError, match="MM_SUPPRESSION_KEY"):
        page.unsubscribe(OptOutPlan(PAGE_ID, SuppressionKeys(b"another key")))
    assert states(page)[-1] == ("received", None)


def test_a_list_is_read_once_and_its_new_rows_later(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "2026-11-20.csv"
    file.write_text("E-Mail;Phone;note\nmary@example.com;;x\n;;nobody\n;+15559876543;\n")
    first, again, longer = OptOutSummary(), OptOutSummary(), OptOutSummary()
    receive_list(page.database, str(file), PLAN, DAY, first)
    receive_list(page.database, str(file), PLAN, DAY, again)
    page.unsubscribe()
    with file.open("a") as more:
        more.write("john@example.com;;\n")
    receive_list(page.database, str(file), PLAN, DAY, longer)
    assert (first.rows_in_list, first.received, first.rejected) == (3, 2, 1)
    assert (again.rows_in_list, again.received, again.rejected) == (3, 0, 0)
    assert (longer.rows_in_list, longer.received) == (4, 1)
    assert sorted(states(page), key=str) == [
        ("confirmed", None),
        ("confirmed", None),
        ("received", None),
        ("rejected", "the row contains no identifier"),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        'email\nmary@example.com\n"john@example.com\nanne@example.com\n',
        'email\n"mary@example.com\n' + 20_000 * "john@example.com\n",
        '"email\nmary@example.com\n',
        "email\rmary@example.com\r",
    ],
)
def test_a_list_with_a_broken_quote_is_refused_whole_and_not_quoted(
    page: Page, tmp_path: Path, broken: str
) -> None:
    file = tmp_path / "2026-11-20.csv"
    file.write_bytes(broken.encode())
    with pytest.raises(ListRowError, match=r"2026-11-20.csv: line") as caught:
        receive_list(page.database, str(file), PLAN, DAY, OptOutSummary())
    assert "example.com" not in str(caught.value)
    assert states(page) == []


def test_a_zero_byte_does_not_prevent_an_opt_out(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "2026-11-20.csv"
    file.write_bytes(b"email;psid\nma\0ry@example.com;55\0\0\n")
    receive_list(page.database, str(file), PLAN, DAY, OptOutSummary())
    assert page.unsubscribe().confirmed == 1


def test_a_day_without_a_list_changes_nothing(page: Page, tmp_path: Path) -> None:
    summary = OptOutSummary()
    receive_list(page.database, str(tmp_path / "none.csv"), PLAN, DAY, summary)
    assert summary == OptOutSummary()
