"""Who may call, and in which dress a call may come."""

import hashlib
import hmac
import json

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.sandbox import meta
from tests.sandbox.conftest import Start
from tests.sandbox.meta import Meta, error_of

AUDIENCES = f"act_{meta.ACCOUNT}/customaudiences"
TOKENS = f"{meta.PAGE}/notification_message_tokens"


@pytest.mark.parametrize(
    ("path", "token", "code"),
    [
        (AUDIENCES, None, 104),
        (AUDIENCES, "nobody's", 190),
        (AUDIENCES, meta.PAGE_TOKEN, 200),
        (TOKENS, None, 104),
        (TOKENS, "nobody's", 190),
        (TOKENS, meta.SYSTEM_TOKEN, 210),
        (TOKENS, meta.OTHER_PAGE_TOKEN, 200),
        ("act_999/customaudiences", meta.SYSTEM_TOKEN, 100),
        ("no/such/edge", meta.SYSTEM_TOKEN, 2500),
    ],
)
def test_a_call_with_the_wrong_token_or_path_is_refused(
    sandbox: Meta, path: str, token: str | None, code: int
) -> None:
    answer = sandbox.call("GET", path, token)

    assert answer.status_code >= 400
    assert error_of(answer)[0] == code


@pytest.mark.parametrize("dress", ["json", "form", "multipart", "query"])
def test_parameters_may_come_in_any_encoding(sandbox: Meta, dress: str) -> None:
    flat = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in meta.creation().items()
    }
    if dress == "json":
        answer = sandbox.call("POST", AUDIENCES, json=meta.creation())
    elif dress == "form":
        answer = sandbox.call(
            "POST", AUDIENCES, None, data={**flat, "access_token": meta.SYSTEM_TOKEN}
        )
    elif dress == "multipart":
        parts = {name: (None, value.encode()) for name, value in flat.items()}
        answer = sandbox.call("POST", AUDIENCES, files=parts)
    else:
        answer = sandbox.call("POST", AUDIENCES, params=flat)

    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["id"].isdigit()


def test_any_version_or_none_is_understood_and_named_in_the_answer(sandbox: Meta) -> None:
    for prefix, version in (("", "v26.0"), ("/v25.0", "v25.0"), ("/v31.0", "v31.0")):
        answer = sandbox.http.get(
            f"{sandbox.url}{prefix}/{AUDIENCES}", params={"access_token": meta.SYSTEM_TOKEN}
        )
        assert answer.status_code == 200
        assert answer.headers["facebook-api-version"] == version


def test_the_proof_of_the_app_secret_is_checked_and_can_be_demanded(start: Start) -> None:
    sandbox = start(enforce_appsecret_proof=True)
    proof = hmac.new(
        meta.APP_SECRET.encode(), meta.SYSTEM_TOKEN.encode(), hashlib.sha256
    ).hexdigest()

    assert error_of(sandbox.call("GET", AUDIENCES)) == (100, None)
    wrong = sandbox.call("GET", AUDIENCES, params={"appsecret_proof": "0" * 64})
    assert error_of(wrong) == (100, None)
    right = sandbox.call("GET", AUDIENCES, params={"appsecret_proof": proof})
    assert right.status_code == 200


def test_without_any_token_configured_every_token_is_good_for_everything(start: Start) -> None:
    sandbox = start(system_user_tokens=(), page_tokens={}, ad_accounts={})

    assert sandbox.call("POST", AUDIENCES, "anything", json=meta.creation()).status_code == 200
    assert sandbox.call("GET", TOKENS, "anything").status_code == 200
    assert error_of(sandbox.call("GET", TOKENS, None))[0] == 104


def test_a_token_can_be_looked_into(sandbox: Meta) -> None:
    app_token = f"{meta.APP_ID}|{meta.APP_SECRET}"
    for token, kind in ((meta.SYSTEM_TOKEN, "SYSTEM_USER"), (meta.PAGE_TOKEN, "PAGE")):
        answer = sandbox.call("GET", "debug_token", app_token, params={"input_token": token})
        assert answer.json()["data"]["type"] == kind
        assert answer.json()["data"]["is_valid"] is True
    unknown = sandbox.call("GET", "debug_token", app_token, params={"input_token": "nobody's"})
    assert (unknown.status_code, unknown.json()["data"]["is_valid"]) == (200, False)


def test_a_body_that_is_no_json_object_is_a_graph_error(sandbox: Meta) -> None:
    for body in (b"{", b"[1]", b'"text"', b"\xff"):
        answer = sandbox.http.post(
            f"{sandbox.url}/v26.0/{AUDIENCES}",
            content=body,
            headers={"content-type": "application/json", "authorization": "Bearer system-token"},
        )
        assert (answer.status_code, error_of(answer)[0]) == (400, 100)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
PARAMETERS = st.sampled_from(
    ["fields", "filtering", "limit", "after", "payload", "session", "data", "recipient", "message",
     "custom_audience_ids", "name", "marketing_message_channels", "do_not_return_duplicates"]
)  # fmt: skip


@given(
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    edge=st.sampled_from(
        [AUDIENCES, TOKENS, "{}", "{}/users", "{}/usersreplace", "{}/sessions",
         f"{meta.PAGE}/messages", f"{meta.PAGE}/messaging_customer_base/unsubscribe"]
    ),
    params=st.dictionaries(PARAMETERS, VALUES, max_size=4),
)  # fmt: skip
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_call_breaks_the_sandbox(
    sandbox: Meta, method: str, edge: str, params: dict[str, object]
) -> None:
    sandbox.control("POST", "reset")
    audience = sandbox.create_audience()
    token = meta.PAGE_TOKEN if edge.startswith(meta.PAGE) else meta.SYSTEM_TOKEN
    try:
        answer = sandbox.call(method, edge.format(audience), token, json=params)
    except (ValueError, OverflowError):
        assume(False)  # Not even JSON.

    assert answer.status_code in {200, 400, 403}
    assert isinstance(answer.json(), dict)
