"""The receiver as Meta sees it."""

import hashlib
import hmac
import re
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.signature import HEADER, is_signed, sign
from tests.webhooks.conftest import Meta, receiving
from tests.webhooks.meta import (
    CUSTOM_AUDIENCE_ID,
    PAGE_ID,
    PREVIOUS_SECRET,
    VERIFY_TOKEN,
    body,
    changes,
    signed,
    upload_status,
)


def test_the_handshake_echoes_the_challenge_as_it_is(client: httpx.Client) -> None:
    for challenge in ("1158201444", "text with ä & <b>"):
        answer = client.get(
            "/webhooks",
            params={
                "hub.mode": "subscribe",
                "hub.verify_token": VERIFY_TOKEN,
                "hub.challenge": challenge,
            },
        )
        assert (answer.status_code, answer.text) == (200, challenge)
        assert answer.headers["content-type"].startswith("text/plain")


REFUSED_HANDSHAKES = [
    {},
    {"hub.mode": "subscribe", "hub.challenge": "1"},
    {"hub.mode": "subscribe", "hub.verify_token": "wrong", "hub.challenge": "1"},
    {"hub.mode": "unsubscribe", "hub.verify_token": VERIFY_TOKEN, "hub.challenge": "1"},
    {"hub.mode": "subscribe", "hub.verify_token": VERIFY_TOKEN},
    {"hub.mode": "subscribe", "hub.verify_token": "wröng", "hub.challenge": "1"},
]


def test_any_other_handshake_is_refused(client: httpx.Client) -> None:
    statuses = [client.get("/webhooks", params=query).status_code for query in REFUSED_HANDSHAKES]
    assert statuses == [403] * len(REFUSED_HANDSHAKES)


def test_the_signature_is_the_documented_vector() -> None:
    content = rb'{"t":"\u00e4\u00f6\u00e5"}'
    expected = "8cc2a80f11313ef9c69ca05a132f3f266a992c9b43953c1a520861f142a45c7a"
    assert sign(content, "test_app_secret") == f"sha256={expected}"
    assert is_signed(content, f"sha256={expected}", ["test_app_secret"])


def test_an_event_is_stored_before_it_is_answered(meta: Meta) -> None:
    assert meta.posts(changes(upload_status())) == 200
    (event,) = meta.stored()
    assert event.object == "page"
    assert event.field == "marketing_messages_subscriber_upload_status"
    assert event.page_id == str(PAGE_ID)
    assert event.custom_audience_id == str(CUSTOM_AUDIENCE_ID)
    assert event.payload["num_rows"] == 1000
    assert event.processed_at is None


def test_the_previous_secret_is_accepted_during_a_rotation(client: httpx.Client) -> None:
    content = body(changes(upload_status()))
    answer = client.post("/webhooks", content=content, headers=signed(content, PREVIOUS_SECRET))
    assert answer.status_code == 200


BAD_SIGNATURES = [
    {},
    {HEADER: ""},
    {HEADER: "sha256="},
    {HEADER: "sha256=" + "0" * 64},
    {HEADER: "sha1=" + "0" * 40},
    {HEADER: hmac.new(b"test_app_secret", b"other", hashlib.sha256).hexdigest()},
]


def test_a_bad_signature_is_refused_and_nothing_stored(client: httpx.Client, meta: Meta) -> None:
    content = body(changes(upload_status()))
    for headers in BAD_SIGNATURES:
        assert client.post("/webhooks", content=content, headers=headers).status_code == 403
    assert meta.stored() == []


def test_the_signature_covers_the_raw_bytes(client: httpx.Client, meta: Meta) -> None:
    content = body(changes(upload_status()))
    answer = client.post("/webhooks", content=content + b" ", headers=signed(content))
    assert answer.status_code == 403
    assert meta.stored() == []


NO_EVENTS = [
    b"",
    b"hello",
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b"{}",
    b'{"object":"page"}',
    b'{"object":"page","entry":[]}',
    b'{"object":"page","entry":[{"id":"1","time":1}]}',
    b'{"object":"page","entry":{"changes":[]}}',
    b'{"object":["page"],"entry":[{"changes":[{"field":"f","value":1}]}]}',
    b'{"object":"page","entry":[{"changes":[{"value":{}}]}]}',
    b'{"object":"page","entry":[{"changes":[{"field":7,"value":{}}]}]}',
    b'{"object":"page","entry":[{"messaging":[{"sender":{"id":"1"}}]}]}',
    b'{"object":"page","entry":[{"changes":[{"field":"f","value":NaN}]}]}',
    b'{"object":"page","entry":[{"changes":[{"field":"f","value":1e999}]}]}',
    b'{"object":"page","entry":[{"changes":[{"field":"f","value":' + b"9" * 5000 + b"}]}]}",
    b'{"object":"page","entry":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"object":"page","entry":[{"changes":[{"field":"f","value":'
    + b'{"a":' * 500
    + b"1"
    + b"}" * 500
    + b"}]}]}",
]


def test_a_signed_body_that_is_no_event_is_400_and_nothing_stored(meta: Meta) -> None:
    assert [content[:80] for content in NO_EVENTS if meta.posts_bytes(content) != 400] == []
    assert meta.stored() == []


def test_a_body_over_the_limit_is_413_with_or_without_its_length(
    client: httpx.Client, meta: Meta, settings: ReceiverSettings
) -> None:
    content = b" " * (settings.max_body_bytes + 1)
    assert meta.posts_bytes(content) == 413

    def chunks() -> Any:
        for _ in range(settings.max_body_bytes // 2**16 + 1):
            yield b" " * 2**16

    assert client.post("/webhooks", content=chunks()).status_code == 413
    assert meta.stored() == []


def test_a_body_of_4_mib_is_accepted(meta: Meta) -> None:
    small = body(changes(upload_status(filler="")))
    filler = "x" * (4 * 2**20 - len(small))
    assert meta.posts(changes(upload_status(filler=filler))) == 200


def test_a_thousand_changes_in_one_post_are_stored_in_their_order(meta: Meta) -> None:
    assert meta.posts(changes(*(upload_status(rows) for rows in range(1000)))) == 200
    assert [event.payload["num_rows"] for event in meta.stored()] == list(range(1000))


def test_a_redelivered_webhook_is_stored_once(meta: Meta) -> None:
    document = changes(upload_status(1), upload_status(2))
    assert [meta.posts(document) for _ in range(3)] == [200, 200, 200]
    assert len(meta.stored()) == 2


def test_an_event_twice_in_one_post_is_stored_once(meta: Meta) -> None:
    assert meta.posts(changes(upload_status(), upload_status())) == 200
    assert len(meta.stored()) == 1


def test_text_that_postgresql_cannot_hold_is_made_storable(meta: Meta) -> None:
    document = changes({"a\0b": "\0\ud800x\U0001f600"}, field="new_field")
    assert meta.posts(document) == 200
    (event,) = meta.stored()
    assert event.payload == {"a\ufffdb": "\ufffd\ufffdx\U0001f600"}


def test_without_the_database_it_is_503_and_later_200(settings: ReceiverSettings) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    with receiving(settings, away) as client:
        content = body(changes(upload_status()))
        assert client.post("/webhooks", content=content, headers=signed(content)).status_code == 503
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_the_receiver_says_that_it_is_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_what_was_posted_is_counted(client: httpx.Client, meta: Meta) -> None:
    meta.posts(changes(upload_status(1), upload_status(2)))
    meta.posts(changes(upload_status(1), upload_status(2)))
    meta.posts_bytes(b"no")
    figures = client.get("/metrics").text
    assert re.search(r'^mm_webhook_answers_total\{status="200"\} 2\.0$', figures, re.MULTILINE)
    assert re.search(r'^mm_webhook_answers_total\{status="400"\} 1\.0$', figures, re.MULTILINE)
    assert re.search(r"^mm_webhook_events_stored_total 2\.0$", figures, re.MULTILINE)
    assert re.search(r"^mm_webhook_events_known_total 2\.0$", figures, re.MULTILINE)


def test_what_waits_in_the_database_is_a_gauge(client: httpx.Client, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            text(
                "insert into mm.unsubscribe_request (page_id, psid, received_at) "
                "values ('134', '77', now() - interval '1 hour')"
            )
        )
    figures = client.get("/metrics").text
    assert re.search(r"^mm_health_readable 1\.0$", figures, re.MULTILINE)
    labels = r'\{item="open_opt_out",subject="134"\}'
    assert re.search(rf"^mm_health_waiting{labels} 1\.0$", figures, re.MULTILINE)
    assert re.search(rf"^mm_health_age_seconds{labels} 360\d\.", figures, re.MULTILINE)


def test_a_secret_is_never_shown(settings: ReceiverSettings) -> None:
    assert "secret" not in repr(settings).replace("app_secrets", "")
    assert VERIFY_TOKEN not in repr(settings)


@pytest.mark.parametrize(
    ("secrets", "token", "variable"),
    [((), "t", "MM_APP_SECRET"), (("",), "t", "MM_APP_SECRET"), (("s",), "", "VERIFY_TOKEN")],
)
def test_a_receiver_without_an_app_secret_does_not_start(
    secrets: tuple[str, ...], token: str, variable: str
) -> None:
    with pytest.raises(ValueError, match=variable):
        ReceiverSettings(app_secrets=secrets, verify_token=token)


def test_other_paths_and_methods_are_not_there(client: httpx.Client) -> None:
    assert client.get("/").status_code == 404
    assert client.put("/webhooks").status_code == 405
