"""People who write, are asked, accept, stop, resume and leave."""

from typing import Any

import httpx
import pytest

from tests.sandbox import meta
from tests.sandbox.meta import Meta, Receiver, error_of, people, sha256

HOUR = 3600


def ask(sandbox: Meta, psid: str, title: str = "Spring offers", **changes: Any) -> httpx.Response:
    template = {
        "template_type": "notification_messages",
        "notification_messages_timezone": "America/New_York",
        "title": title,
        "image_url": "https://example.com/image.png",
        "payload": "from the test",
    }
    body = {
        "recipient": {"id": psid},
        "page": meta.PAGE,
        "message": {"attachment": {"type": "template", "payload": template | changes}},
    }
    return sandbox.call("POST", f"{meta.PAGE}/messages", meta.PAGE_TOKEN, json=body)


def written(sandbox: Meta, psid: str | None = None) -> str:
    return str(sandbox.control("POST", "people/message", page_id=meta.PAGE, psid=psid)["psid"])


def act(sandbox: Meta, what: str, psid: str, **more: Any) -> Any:
    return sandbox.control("POST", f"people/{what}", page_id=meta.PAGE, psid=psid, **more)


def test_a_message_sends_a_webhook_and_opens_the_window(sandbox: Meta, receiver: Receiver) -> None:
    psid = written(sandbox)
    sandbox.process_now()
    (message,) = receiver.bodies()[0]["entry"][0]["messaging"]

    assert (message["sender"]["id"], message["recipient"]["id"]) == (psid, meta.PAGE)
    assert message["message"]["text"]
    assert ask(sandbox, psid).json()["recipient"]["id"] == psid


def test_requests_keep_to_the_window_and_to_the_titles_week(sandbox: Meta) -> None:
    psid = written(sandbox)

    assert error_of(ask(sandbox, "12345")) == (100, 2018001)
    assert error_of(ask(sandbox, psid, title="x" * 66))[0] == 100
    assert ask(sandbox, psid).status_code == 200
    assert error_of(ask(sandbox, psid, title="Another")) == (9, 2018352)
    sandbox.control("POST", "clock", advance_seconds=25 * HOUR)
    assert error_of(ask(sandbox, psid, title="Another")) == (10, 2018278)
    written(sandbox, psid)
    assert error_of(ask(sandbox, psid)) == (9, 2018352)
    assert ask(sandbox, psid, title="Another").status_code == 200


def test_accepting_a_request_yields_a_token_with_every_field(
    sandbox: Meta, receiver: Receiver
) -> None:
    psid = written(sandbox)
    ask(sandbox, psid)
    token = act(sandbox, "accept", psid)["subscription_token"]
    sandbox.process_now()
    # The webhook of the message may arrive before it or after.
    messages = [message for body in receiver.bodies() for message in body["entry"][0]["messaging"]]
    (optin,) = [message["optin"] for message in messages if "optin" in message]
    (listed,) = [row for row in sandbox.tokens() if row.get("recipient_id") == psid]

    assert optin["type"] == "notification_messages"
    assert optin["notification_messages_token"] == token
    assert optin["payload"] == "from the test"
    assert "notification_messages_status" not in optin
    assert listed["notification_messages_token"] == token
    assert listed["topic_title"] == "Spring offers"


def test_a_dismissed_request_yields_no_token_and_cannot_be_accepted(sandbox: Meta) -> None:
    psid = written(sandbox)
    ask(sandbox, psid)
    act(sandbox, "ignore", psid)
    who = {"page_id": meta.PAGE, "psid": psid}
    answer = sandbox.http.post(f"{sandbox.url}/_sandbox/people/accept", json=who)

    assert answer.status_code == 409
    assert all(row.get("recipient_id") != psid for row in sandbox.tokens())


@pytest.mark.parametrize(
    ("spelling", "stop"),
    [("spaces", "STOP NOTIFICATIONS"), ("underscores", "STOP_NOTIFICATIONS")],
)
def test_stop_and_resume_send_webhooks_and_appear_in_the_listing(
    sandbox: Meta, receiver: Receiver, spelling: str, stop: str
) -> None:
    sandbox.control("POST", "variants", optin_status_spelling=spelling)
    psid = written(sandbox)
    ask(sandbox, psid)
    act(sandbox, "accept", psid)
    act(sandbox, "stop", psid, with_token=False)
    (listed,) = [row for row in sandbox.tokens() if row.get("recipient_id") == psid]
    assert listed["notification_messages_reoptin"] == "DISABLED"
    act(sandbox, "resume", psid)
    (listed,) = [row for row in sandbox.tokens() if row.get("recipient_id") == psid]
    assert listed["notification_messages_reoptin"] == "ENABLED"
    sandbox.process_now()
    optins = [
        body["entry"][0]["messaging"][0]["optin"]
        for body in receiver.bodies()
        if "optin" in body["entry"][0]["messaging"][0]
    ]
    (stopped,) = [optin for optin in optins if optin.get("notification_messages_status") == stop]

    assert "notification_messages_token" not in stopped


def unsubscribe(sandbox: Meta, *rows: object) -> Any:
    path = f"{meta.PAGE}/messaging_customer_base/unsubscribe"
    answer = sandbox.call("POST", path, meta.PAGE_TOKEN, json={"data": list(rows)})
    assert answer.status_code == 200, answer.text
    return answer.json()["invalid_rows_count"]


@pytest.mark.parametrize(
    "row",
    [
        {"phone": "+15550000001"},
        {"email": "ann@example.com"},
        {"phone": sha256("15550000001")},
        {"email": sha256("ann@example.com")},
        {"phone": "+15550000001", "email": "ann@example.com"},
    ],
)
def test_unsubscribing_by_contact_ends_the_token_for_good(
    sandbox: Meta, row: dict[str, str]
) -> None:
    sandbox.control("POST", "reset")
    audience = sandbox.create_audience()
    # Enough others for the floor; among a few namesakes at least one is matched.
    ann = [[sha256("ann@example.com"), sha256("15550000001")]]
    sandbox.upload(audience, people(300) + ann, last=True)
    sandbox.process_now()
    before = {item["notification_messages_token"] for item in sandbox.tokens()}
    assert unsubscribe(sandbox, row) == 0
    gone = before - {item["notification_messages_token"] for item in sandbox.tokens()}
    sandbox.upload(audience, ann, session=2, last=True)
    sandbox.process_now()

    assert len(gone) == 1
    assert not gone & {item["notification_messages_token"] for item in sandbox.tokens()}
    assert len(sandbox.members(audience)) == 301


def test_unsubscribing_by_psid_ends_every_token_and_by_token_one(sandbox: Meta) -> None:
    listed = [row for row in sandbox.tokens() if "recipient_id" in row]
    psids = [row["recipient_id"] for row in listed]
    several = next(psid for psid in psids if psids.count(psid) > 1)
    other = next(row for row in listed if row["recipient_id"] != several)

    assert unsubscribe(sandbox, {"psid": several}) == 0
    rows = {"subscriber_token": other["notification_messages_token"]}
    assert unsubscribe(sandbox, rows, {"psid": "404"}) == 0
    assert len(sandbox.tokens()) == len(listed) - psids.count(several) - 1


def test_invalid_rows_are_counted_and_nothing_else(sandbox: Meta) -> None:
    rows = [
        {},
        "text",
        {"phone": "0155 5000"},
        {"email": "Ann@Example.com"},
        {"email": "nobody"},
        {"psid": "1", "subscriber_token": "2"},
        {"psid": "1", "email": "ann@example.com"},
        {"email": None},
    ]
    assert unsubscribe(sandbox, *rows, {"email": "nobody@example.com"}) == len(rows)
    path = f"{meta.PAGE}/messaging_customer_base/unsubscribe"
    bodies: list[dict[str, object]] = [{}, {"data": []}, {"data": "x"}]
    for body in bodies:
        answer = sandbox.call("POST", path, meta.PAGE_TOKEN, json=body)
        assert error_of(answer)[0] == 100
