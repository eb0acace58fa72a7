"""Matching, and the subscription tokens that come of it."""

from typing import Any

import pytest

from tests.sandbox import meta
from tests.sandbox.conftest import Start
from tests.sandbox.meta import Meta, error_of, people

EDGE = f"{meta.PAGE}/notification_message_tokens"
MADE_BY_AUDIENCE = {
    "notification_messages_token",
    "topic_title",
    "notification_messages_reoptin",
    "custom_audience_ids",
}


def made_by_audience(sandbox: Meta, **params: Any) -> dict[str, list[str]]:
    """Tokens that audiences made, with their audiences."""
    return {
        row["notification_messages_token"]: row["custom_audience_ids"]
        for row in sandbox.tokens(**params)
        if "custom_audience_ids" in row
    }


def uploaded(sandbox: Meta, count: int, name: str = "Newsletter", session: int = 1) -> str:
    audience = sandbox.create_audience(name)
    sandbox.upload(audience, people(count), session=session, last=True)
    sandbox.process_now()
    return audience


def test_the_share_of_people_that_was_set_is_matched_and_bounded(sandbox: Meta) -> None:
    audience = uploaded(sandbox, 5000)
    fields = "approximate_count_lower_bound,approximate_count_upper_bound,delivery_status"
    node = sandbox.call("GET", audience, params={"fields": fields}).json()
    matched = len(made_by_audience(sandbox))

    assert 0.57 < matched / 5000 < 0.63
    assert node["approximate_count_lower_bound"] <= matched
    assert matched <= node["approximate_count_upper_bound"]
    assert node["delivery_status"]["code"] == 200


def test_a_person_matches_alike_in_every_audience_and_holds_one_token(sandbox: Meta) -> None:
    first = uploaded(sandbox, 300, "One", session=1)
    tokens = made_by_audience(sandbox)
    second = uploaded(sandbox, 300, "Two", session=2)

    assert made_by_audience(sandbox) == {token: [first, second] for token in tokens}


def test_the_same_seed_makes_the_same_tokens(sandbox: Meta, start: Start) -> None:
    uploaded(sandbox, 300)
    other, third = start(), start(seed=7)
    uploaded(other, 300)
    uploaded(third, 300)

    assert made_by_audience(sandbox).keys() == made_by_audience(other).keys()
    assert made_by_audience(sandbox).keys() != made_by_audience(third).keys()


def test_an_audience_under_the_floor_hides_its_tokens(sandbox: Meta) -> None:
    audience = uploaded(sandbox, 150)
    assert made_by_audience(sandbox) == {}
    assert sandbox.tokens(custom_audience_ids=audience) == []
    sandbox.upload(audience, people(150, "more"), session=2, last=True)
    sandbox.process_now()
    assert len(made_by_audience(sandbox)) >= 100


def test_audience_tokens_have_few_fields_and_opt_in_tokens_all(sandbox: Meta) -> None:
    uploaded(sandbox, 300)
    listed = sandbox.tokens()
    opted_in = [row for row in listed if "recipient_id" in row]
    recipients = [row["recipient_id"] for row in opted_in]

    assert {frozenset(row) for row in listed if "recipient_id" not in row} == {
        frozenset(MADE_BY_AUDIENCE)
    }
    assert len(set(recipients)) == 30
    assert sum(recipients.count(psid) > 1 for psid in set(recipients)) == 10
    for row in opted_in:
        assert row["creation_timestamp"] > 1_000_000_000
        assert row["user_token_status"] in {"REFRESHED", "NOT_REFRESHED"}


def test_the_listing_is_paged_with_a_default_and_a_highest_limit(sandbox: Meta) -> None:
    uploaded(sandbox, 3000)
    page = sandbox.call("GET", EDGE, meta.PAGE_TOKEN).json()
    largest = sandbox.call("GET", EDGE, meta.PAGE_TOKEN, params={"limit": 5000}).json()
    listed = sandbox.tokens(limit=700)

    assert (len(page["data"]), len(largest["data"])) == (100, 1000)
    assert f"access_token={meta.PAGE_TOKEN}" in page["paging"]["next"]
    assert sandbox.http.get(page["paging"]["next"]).json()["data"][0] == listed[100]
    assert len({row["notification_messages_token"] for row in listed}) == len(listed)
    wrong = sandbox.call("GET", EDGE, meta.PAGE_TOKEN, params={"after": "nonsense"})
    assert error_of(wrong)[0] == 100


def test_short_and_empty_pages_lead_to_the_same_tokens(sandbox: Meta) -> None:
    uploaded(sandbox, 500)
    whole = sandbox.tokens()
    sandbox.control("POST", "variants", short_pages=True)

    assert sandbox.tokens(limit=20) == whole


@pytest.mark.parametrize("encoding", ["csv", "json", "repeated"])
def test_tokens_are_filtered_by_audience_in_any_encoding(sandbox: Meta, encoding: str) -> None:
    first = uploaded(sandbox, 300, "One", session=1)
    other = sandbox.create_audience("Other Page", page=meta.OTHER_PAGE)
    sandbox.upload(other, people(300, "foreign"), session=2, last=True)
    sandbox.process_now()
    value = {
        "csv": f"{first},{other}",
        "json": f'["{first}", "{other}"]',
        "repeated": [first, other],
    }[encoding]

    assert made_by_audience(sandbox, custom_audience_ids=value) == made_by_audience(sandbox)
    assert sandbox.tokens(custom_audience_ids=other) == []


def test_duplicates_of_a_recipient_can_be_left_out(sandbox: Meta) -> None:
    listed = sandbox.tokens(do_not_return_duplicates="true")

    assert len(listed) == 30
    assert len({row["recipient_id"] for row in listed}) == 30


def test_without_duplicates_the_listing_stops_at_ten_thousand(start: Start) -> None:
    sandbox = start(match_rate=1, optin_people_per_page=0)
    audience = sandbox.create_audience()
    sandbox.upload(audience, people(10_000), seq=1)
    sandbox.upload(audience, people(50, "more"), seq=2, last=True)
    sandbox.process_now()

    assert len(sandbox.tokens()) == 10_050
    assert len(sandbox.tokens(do_not_return_duplicates=True)) == 10_000


def test_tokens_are_filtered_by_source_and_by_message_received(sandbox: Meta) -> None:
    uploaded(sandbox, 300)
    everything = len(sandbox.tokens())

    assert len(sandbox.tokens(opt_in_source="SUBSCRIBER_LIST")) == len(made_by_audience(sandbox))
    assert 0 < len(sandbox.tokens(opt_in_source="CTM,COMMENT_AUTOMATION")) < 45
    received = len(sandbox.tokens(has_received_marketing_message="true"))
    never = len(sandbox.tokens(has_received_marketing_message="false"))
    assert 0 < received < everything
    assert received + never == everything


def test_a_single_token_can_be_read_by_its_page_alone(sandbox: Meta) -> None:
    listed = sandbox.tokens()[0]
    path = f"notification_messages_{listed['notification_messages_token']}"

    assert sandbox.call("GET", path, meta.PAGE_TOKEN).json() == listed
    assert error_of(sandbox.call("GET", path, meta.OTHER_PAGE_TOKEN)) == (100, 33)
    assert error_of(sandbox.call("GET", "notification_messages_1", meta.PAGE_TOKEN)) == (100, 33)


def test_removal_from_an_audience_keeps_the_token_and_drops_the_audience(sandbox: Meta) -> None:
    audience = uploaded(sandbox, 400)
    before = made_by_audience(sandbox)
    sandbox.upload(audience, people(100), session=2, method="DELETE")
    after = made_by_audience(sandbox)

    assert after.keys() == before.keys()
    assert set(map(tuple, after.values())) == {(audience,), ()}
    assert 40 < list(after.values()).count([]) < 80


def upload_days(sandbox: Meta, days: list[list[list[str]]]) -> str:
    """One audience that gets one session a day."""
    audience = sandbox.create_audience()
    for session, rows in enumerate(days, 1):
        sandbox.upload(audience, rows, session=session, last=True)
        sandbox.process_now()
    return audience


# A match rate of 1 makes the number of matches the number of rows.
SMALL_DAYS = [people(60, f"day {day} ") for day in range(3)]
LARGE_DAY = people(100, "large ")


@pytest.mark.parametrize(
    ("threshold", "tokens", "members"),
    [("audience", 280, 280), ("session", 100, 280), ("discard", 100, 100)],
)
def test_the_match_threshold_has_three_readings(
    start: Start, threshold: str, tokens: int, members: int
) -> None:
    sandbox = start(match_rate=1, optin_people_per_page=0)
    sandbox.control("POST", "variants", match_threshold=threshold)
    audience = upload_days(sandbox, [*SMALL_DAYS, LARGE_DAY])

    assert len(sandbox.tokens(custom_audience_ids=audience)) == tokens
    assert len(made_by_audience(sandbox)) == tokens
    assert len(sandbox.members(audience)) == members


@pytest.mark.parametrize("threshold", ["audience", "session", "discard"])
def test_a_small_day_earns_tokens_when_members_are_sent_again_with_it(
    start: Start, threshold: str
) -> None:
    sandbox = start(match_rate=1, optin_people_per_page=0)
    sandbox.control("POST", "variants", match_threshold=threshold)
    small, later = people(60, "small "), people(10, "later ")
    audience = upload_days(sandbox, [LARGE_DAY, small + LARGE_DAY, later])

    expected = {"audience": 170, "session": 160, "discard": 160}[threshold]
    assert len(sandbox.tokens(custom_audience_ids=audience)) == expected
    assert len(sandbox.members(audience)) == (160 if threshold == "discard" else 170)


def test_a_session_earns_tokens_for_all_its_batches_once_it_reaches_the_threshold(
    start: Start,
) -> None:
    sandbox = start(match_rate=1, optin_people_per_page=0)
    sandbox.control("POST", "variants", match_threshold="session")
    audience = sandbox.create_audience()
    counts = []
    for seq in (1, 2, 3):
        sandbox.upload(audience, people(60, f"{seq} "), seq=seq, last=seq == 3)
        sandbox.process_now()
        counts.append(len(sandbox.tokens()))

    assert counts == [0, 120, 180]


def test_a_listing_can_be_empty_once(sandbox: Meta) -> None:
    listed = sandbox.tokens()
    fault = {"path": "*/notification_message_tokens", "variants": {"empty_listing": True}}
    sandbox.control("POST", "faults", **fault)

    assert sandbox.tokens() == []
    assert sandbox.tokens() == listed


def test_a_person_can_hold_a_token_of_an_old_topic_and_one_from_an_audience(start: Start) -> None:
    sandbox = start(match_rate=1, optin_people_per_page=0, old_topic_share=0.5)
    uploaded(sandbox, 200)
    listed = sandbox.tokens()
    old = [row for row in listed if "recipient_id" in row]
    assert 70 < len(old) < 130
    assert {row["topic_title"] for row in old} == {"New arrivals"}
    assert len(listed) == 200 + len(old)

    person = {"page_id": meta.PAGE, "psid": old[0]["recipient_id"]}
    sandbox.control("POST", "people/stop", **person)
    stopped = [row["notification_messages_reoptin"] for row in sandbox.tokens()]
    assert stopped.count("DISABLED") == 2
    path = f"{meta.PAGE}/messaging_customer_base/unsubscribe"
    rows = [{"psid": old[0]["recipient_id"]}]
    sandbox.call("POST", path, meta.PAGE_TOKEN, json={"data": rows})
    assert len(sandbox.tokens()) == len(listed) - 2
    sandbox.call("POST", path, meta.PAGE_TOKEN, json={"data": [{"email": people(1)[0][0]}]})
    assert len(sandbox.tokens()) in {len(listed) - 3, len(listed) - 4}
