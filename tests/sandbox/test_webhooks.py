"""Webhooks: their form, their signature, and that they arrive."""

import hashlib
import hmac

import pytest

from tests.sandbox import meta
from tests.sandbox.conftest import Start
from tests.sandbox.meta import Meta, Receiver, error_of, people

FIELD = "marketing_messages_subscriber_upload_status"
APP_TOKEN = f"{meta.APP_ID}|{meta.APP_SECRET}"


def uploaded(sandbox: Meta, batches: int = 1, rows: int = 200) -> str:
    audience = sandbox.create_audience()
    for seq in range(1, batches + 1):
        sandbox.upload(audience, people(rows, f"{seq}-"), seq=seq)
    return audience


def test_each_processed_batch_is_reported_once_and_signed(
    sandbox: Meta, receiver: Receiver
) -> None:
    audience = uploaded(sandbox, batches=3)
    sandbox.process_now()

    assert len(receiver.got) == 3
    for signature, body in receiver.got:
        digest = hmac.new(meta.APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert signature == f"sha256={digest}"
    (entry,) = receiver.bodies()[0]["entry"]
    (change,) = entry["changes"]
    value = change["value"]
    assert (receiver.bodies()[0]["object"], entry["id"]) == ("page", meta.PAGE)
    assert change["field"] == value["field"] == FIELD
    assert value["custom_audience_id"] == int(audience)
    assert value["ad_account_id"] == int(meta.ACCOUNT)
    assert value["num_rows"] == 200
    assert value["batch_uploading_status"] == "SUCCESS"
    assert len({body["entry"][0]["time"] for body in receiver.bodies()}) == 3


@pytest.mark.parametrize("envelope", ["bare", "changes_bare_value"])
def test_the_envelope_can_take_its_other_forms(
    sandbox: Meta, receiver: Receiver, envelope: str
) -> None:
    sandbox.control("POST", "variants", envelope=envelope)
    uploaded(sandbox)
    sandbox.process_now()
    (body,) = receiver.bodies()

    if envelope == "bare":
        assert body["field"] == FIELD
    else:
        assert "field" not in body["entry"][0]["changes"][0]["value"]


def test_a_failed_batch_is_reported_and_yields_no_token(sandbox: Meta, receiver: Receiver) -> None:
    sandbox.control("POST", "variants", upload_status="FAILURE", upload_object="both")
    uploaded(sandbox)
    sandbox.process_now()

    assert {body["object"] for body in receiver.bodies()} == {"page", "ad_account"}
    value = receiver.bodies()[0]["entry"][0]["changes"][0]["value"]
    assert (value["batch_uploading_status"], value["approximate_count_upper_bound"]) == (
        "FAILURE",
        0,
    )


def test_a_refused_webhook_comes_again_with_the_same_bytes(
    sandbox: Meta, receiver: Receiver
) -> None:
    receiver.statuses += [503, 500]
    uploaded(sandbox)
    while not sandbox.process_now()["idle"]:
        pass

    assert len(receiver.got) == 3
    assert len(set(receiver.got)) == 1


def test_webhooks_can_be_held_back_and_sent_again_in_another_order(
    sandbox: Meta, receiver: Receiver
) -> None:
    sandbox.control("POST", "webhooks/pause")
    uploaded(sandbox, batches=3)
    assert sandbox.process_now()["pending_webhooks"] == 3
    assert receiver.got == []
    sandbox.control("POST", "webhooks/resume")
    sandbox.process_now()
    sandbox.control("POST", "webhooks/redeliver", reverse=True, last=2)
    sandbox.process_now()

    assert len(receiver.got) == 5
    assert len(set(receiver.got)) == 3


def test_subscribing_verifies_the_callback_first(start: Start, receiver: Receiver) -> None:
    sandbox = start(require_subscriptions=True)
    body = {
        "object": "page",
        "callback_url": receiver.url,
        "fields": f"messages,{FIELD}",
        "verify_token": meta.VERIFY_TOKEN,
    }
    edge, page_edge = f"{meta.APP_ID}/subscriptions", f"{meta.PAGE}/subscribed_apps"

    refused = sandbox.call("POST", edge, APP_TOKEN, data=body | {"verify_token": "wrong"})
    assert error_of(refused)[0] == 2200
    assert error_of(sandbox.call("POST", edge, data=body))[0] == 15
    assert sandbox.call("POST", edge, APP_TOKEN, data=body).json() == {"success": True}
    uploaded(sandbox)
    sandbox.process_now()
    assert receiver.got == []  # The Page has not subscribed yet.

    fields = {"subscribed_fields": FIELD}
    answer = sandbox.call("POST", page_edge, meta.PAGE_TOKEN, params=fields)
    assert answer.json() == {"success": "true"}
    sandbox.upload(sandbox.create_audience("Second"), people(10), session=9)
    sandbox.process_now()
    assert len(receiver.got) == 1
    (listed,) = sandbox.call("GET", edge, APP_TOKEN).json()["data"]
    assert [field["name"] for field in listed["fields"]] == ["messages", FIELD]
    (app,) = sandbox.call("GET", page_edge, meta.PAGE_TOKEN).json()["data"]
    assert app["subscribed_fields"] == [FIELD]


@pytest.fixture
def in_order(start: Start, receiver: Receiver) -> Meta:
    """A sandbox that matches batches in the order in which they came."""
    return start(match_jitter_seconds=0, webhook_url=receiver.url)


def upload_reports(receiver: Receiver) -> list[int]:
    """The row counts of the upload-status webhooks, in the order in which they arrived."""
    values = [body["entry"][0]["changes"][0]["value"] for body in receiver.bodies()]
    return [value["num_rows"] for value in values]


def upload_of_sizes(sandbox: Meta, *sizes: int) -> str:
    audience = sandbox.create_audience()
    for seq, size in enumerate(sizes, 1):
        sandbox.upload(audience, people(size, f"{seq}-"), seq=seq)
    return audience


def test_webhooks_can_be_lost_doubled_and_late(in_order: Meta, receiver: Receiver) -> None:
    sandbox = in_order
    sandbox.control("POST", "webhooks/faults", field="*upload_status", nth=1, lost=True)
    sandbox.control("POST", "webhooks/faults", field="*upload_status", nth=2, copies=2)
    sandbox.control("POST", "webhooks/faults", field="*upload_status", nth=3, delay_seconds=600)
    sandbox.control("POST", "webhooks/faults", field="messages", lost=True)
    upload_of_sizes(sandbox, 1, 2, 3, 4)
    assert sandbox.process_now()["pending_webhooks"] == 1
    assert sorted(upload_reports(receiver)) == [2, 2, 4]
    sandbox.control("POST", "clock", advance_seconds=600)
    sandbox.process_now()

    assert sorted(upload_reports(receiver)) == [2, 2, 3, 4]
    assert [fault["fired"] for fault in sandbox.control("GET", "webhooks/faults")] == [1, 1, 1, 0]
    assert sandbox.control("DELETE", "webhooks/faults") == []


def test_pending_webhooks_can_arrive_in_reverse_within_one_second(
    in_order: Meta, receiver: Receiver
) -> None:
    sandbox = in_order
    sandbox.control("POST", "clock", frozen=True)
    sandbox.control("POST", "variants", webhook_entry_time="seconds")
    sandbox.control("POST", "webhooks/pause")
    upload_of_sizes(sandbox, 1, 2, 3)
    sandbox.process_now()
    assert sandbox.control("POST", "webhooks/reverse") == {"reversed": 3}
    sandbox.control("POST", "webhooks/resume")
    sandbox.process_now()

    assert upload_reports(receiver) == [3, 2, 1]
    assert len({body["entry"][0]["time"] for body in receiver.bodies()}) == 1


def test_a_report_of_another_app_can_be_sent(sandbox: Meta, receiver: Receiver) -> None:
    audience = sandbox.create_audience()
    report = {"audience_id": audience, "num_rows": 10, "app_id": "42", "upper_bound": 7}
    sandbox.control("POST", "webhooks/upload-status", **report)
    sandbox.process_now()
    (body,) = receiver.bodies()
    value = body["entry"][0]["changes"][0]["value"]

    assert (value["app_id"], value["num_rows"]) == (42, 10)
    assert value["custom_audience_id"] == int(audience)
    assert value["approximate_count_upper_bound"] == 7
