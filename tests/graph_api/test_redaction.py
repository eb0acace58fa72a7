import hashlib
import logging
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.graph_api.redaction import HIDDEN, redact
from tests.graph_api.scripted import TOKEN, Graph, answer

ALPHANUMERIC = st.text(string.ascii_letters + string.digits, min_size=6, max_size=120)
AROUND = st.sampled_from(
    [
        "{}",
        "Invalid value '{}' given",
        '{{"x":"{}"}}',
        "https://graph.facebook.com/v26.0/me?limit=1&x={}&y=2",
        "({}), next",
        "got {}: not permitted",
    ]
)


def assert_hidden(secret: str, text: str) -> None:
    shown = redact(text)
    assert secret not in shown
    assert HIDDEN in shown


@given(ALPHANUMERIC, st.sampled_from(["access_token", "appsecret_proof", "input_token"]))
def test_no_secret_parameter_survives(secret: str, name: str) -> None:
    secret = f"S3{secret}"
    for text in (
        f"https://graph.facebook.com/v26.0/1/notification_message_tokens?{name}={secret}&limit=5",
        f'{{"{name}":"{secret}"}}',
        f"{{'{name}': '{secret}'}}",
        f"{name}: {secret}",
        f"Authorization: Bearer {secret}",
    ):
        assert_hidden(secret, text)


@given(st.binary(max_size=20), AROUND)
def test_no_hash_survives(value: bytes, around: str) -> None:
    digest = hashlib.sha256(value).hexdigest()
    for text in (digest, digest.upper()):
        assert_hidden(text, around.format(text))


@given(st.emails(), AROUND)
def test_no_email_address_survives(email: str, around: str) -> None:
    # What follows the @ of an unusual address may stand for punctuation of the text around it.
    shown = redact(around.format(email))
    assert email not in shown
    assert HIDDEN in shown


@given(st.from_regex(r"\+[1-9]\d{6,14}", fullmatch=True), AROUND)
def test_no_phone_number_survives(phone: str, around: str) -> None:
    assert_hidden(phone, around.format(phone))


@given(st.integers(10**9, 10**18), AROUND)
def test_no_page_scoped_id_survives(psid: int, around: str) -> None:
    assert_hidden(str(psid), around.format(psid))


@given(st.from_regex(r"[A-Za-z0-9_-]{24,200}", fullmatch=True).map(lambda t: f"{t}7"), AROUND)
def test_no_subscription_token_survives(token: str, around: str) -> None:
    assert_hidden(token, around.format(token))


@given(st.from_regex(r"EAA[A-Za-z0-9]{5,200}", fullmatch=True), AROUND)
def test_no_access_token_survives(token: str, around: str) -> None:
    assert_hidden(token, around.format(token))


@given(ALPHANUMERIC)
def test_no_token_in_a_path_survives(token: str) -> None:
    token = f"t{token}"
    assert_hidden(token, f"Object with ID 'notification_messages_{token}' does not exist")
    assert_hidden(token, f"GET https://graph.facebook.com/v26.0/notification_messages_{token}?a=1")


@given(st.text(min_size=1, max_size=50), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_that_is_known_never_survives(secret: str, before: str, after: str) -> None:
    # Characters of the replacement itself could be all there is to a very short "secret".
    if secret in HIDDEN:
        return
    assert secret not in redact(before + secret + after, secret).replace(HIDDEN, "")


@pytest.mark.parametrize(
    "text",
    [
        "(#100) Missing required parameter: payload",
        "(#100) Data is missing or does not match schema",
        "(#2300080) Token query rate limit reached",
        "Invalid parameter notification_messages_timezone",
        "(#2200) Callback verification failed with the following errors: HTTP Status Code = 403",
    ],
)
def test_what_a_person_needs_to_read_stays(text: str) -> None:
    assert redact(text) == text


def test_nothing_secret_is_logged_at_any_level(
    graph: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    graph.answers(answer({"id": "1"}))
    with graph.client(app_secret="a-secret-of-the-app") as client:
        client.get("notification_messages_tok123", {"input_token": "very-secret", "after": "Qv1"})
    assert caplog.text, "httpx logs its calls: if it no longer does, this test shows nothing"
    proof = graph.requests[0].url.params["appsecret_proof"]
    for secret in (TOKEN, proof, "a-secret-of-the-app", "tok123", "very-secret", "Qv1"):
        assert secret not in caplog.text
