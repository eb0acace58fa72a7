"""The client and the sandbox share no code: what one misunderstands, the other shows."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import polars as pl
import pytest

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.access_tokens import debug_token
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.custom_audiences import (
    find_or_create_custom_audience,
    get_custom_audience,
    list_custom_audiences,
    list_sessions,
)
from mm_pipelines.graph_api.messages import OptInRequest, Verdict, send_opt_in_request, verdict
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.graph_api.subscriptions import page_subscriptions, subscribe_page
from mm_pipelines.graph_api.throttle import MemoryThrottle, Quota
from mm_pipelines.graph_api.tokens import get_token, iter_token_pages
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow, unsubscribe
from mm_pipelines.graph_api.users import UploadSession, add_users, remove_users
from mm_pipelines.sandbox.server import server
from mm_pipelines.sandbox.settings import Settings
from tests.graph_api.scripted import Time
from tests.servers import serving

APP_ID, APP_SECRET = "1231312312312301", "an-app-secret"
SYSTEM_USER, PAGE_TOKEN = "EAAsystemuser", "EAApage"
PAGE, ACCOUNT = "134141414124123", "12348141984909088"

Control = Callable[..., Any]
NewClient = Callable[[str], GraphApiClient]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    settings = Settings.model_validate(
        {
            "app_id": APP_ID,
            "app_secret": APP_SECRET,
            "system_user_tokens": [SYSTEM_USER],
            "page_tokens": {PAGE: PAGE_TOKEN},
            "enforce_appsecret_proof": True,
            "match_delay_seconds": 3600,
            "optin_people_per_page": 50,
        }
    )
    with serving(server("127.0.0.1", 0, settings)) as url:
        yield url


@pytest.fixture
def control(address: str) -> Iterator[Control]:
    """The sandbox's control calls, after a reset."""
    with httpx.Client(base_url=f"{address}/_sandbox/") as http:

        def ask(path: str, http_method: str = "POST", /, **body: Any) -> Any:
            response = http.request(http_method, path, json=body)
            response.raise_for_status()
            return response.json()

        ask("reset")
        ask("faults", "DELETE")
        ask("quotas", "DELETE")
        yield ask


@pytest.fixture
def new_client(address: str, control: Control) -> Iterator[NewClient]:
    clients = []
    passing = Time()

    def make(token: str) -> GraphApiClient:
        client = GraphApiClient(
            token,
            base_url=address,
            app_secret=APP_SECRET,
            throttle=MemoryThrottle(lambda: passing.now),
            sleep=passing.sleep,
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def system_user(new_client: NewClient) -> GraphApiClient:
    return new_client(SYSTEM_USER)


@pytest.fixture
def page(new_client: NewClient) -> GraphApiClient:
    return new_client(PAGE_TOKEN)


def acme(client: GraphApiClient) -> tuple[str, bool]:
    return find_or_create_custom_audience(
        client, ACCOUNT, name="Acme", description="Agreed", page_id=PAGE
    )


def people(count: int, start: int = 0) -> pl.DataFrame:
    emails = [
        hashlib.sha256(f"p{i}@example.com".encode()).hexdigest()
        for i in range(start, start + count)
    ]
    return pl.DataFrame({"EMAIL": emails, "COUNTRY": hashlib.sha256(b"us").hexdigest()})


def place(batch_seq: int = 1, *, last: bool = True, session_id: int = 77) -> UploadSession:
    return UploadSession(session_id, batch_seq, last, 500)


def tokens(client: GraphApiClient, **options: Any) -> pl.DataFrame:
    return pl.concat(iter_token_pages(client, PAGE, **options))


@pytest.mark.parametrize("shape", ["wrapped", "top_level"])
def test_from_a_list_to_tokens(
    system_user: GraphApiClient, page: GraphApiClient, control: Control, shape: str
) -> None:
    control("variants", create_shape=shape)
    audience_id, created = acme(system_user)
    assert created
    assert acme(system_user) == (audience_id, False)
    assert [a.id for a in list_custom_audiences(system_user, ACCOUNT)] == [audience_id]

    first = add_users(system_user, audience_id, people(300), place(1, last=False))
    second = add_users(system_user, audience_id, people(200, start=300), place(2))
    assert (first.num_received, second.num_received) == (300, 500)
    assert second.num_subscribers_received is not None

    control("settle")
    audience = get_custom_audience(system_user, audience_id)
    assert audience.page_id == PAGE
    assert audience.approximate_count_lower_bound is not None
    assert audience.approximate_count_upper_bound is not None
    (session,) = list_sessions(system_user, audience_id)
    assert (session.session_id, session.num_received) == ("77", 500)

    matched = tokens(page, custom_audience_ids=[audience_id], limit=7)
    assert session.num_matched == matched.height
    assert 100 <= matched.height <= 500
    assert matched["recipient_id"].null_count() == matched.height
    assert matched["custom_audience_ids"].to_list() == [[audience_id]] * matched.height

    everyone = tokens(page)
    opted_in = everyone.filter(pl.col("recipient_id").is_not_null())
    assert everyone.height == matched.height + opted_in.height
    assert opted_in["created_at"].null_count() == 0
    assert get_token(page, opted_in["token"][0]).equals(opted_in.head(1))


@pytest.mark.parametrize(
    "variants",
    [{"short_pages": True}, {"timestamp_unit": "milliseconds"}],
    ids=["short and empty pages", "milliseconds"],
)
def test_the_listing_is_the_same_in_every_form(
    page: GraphApiClient, control: Control, variants: dict[str, Any]
) -> None:
    plain = tokens(page)
    assert plain.height > 0
    control("variants", **variants)
    assert tokens(page, limit=20).equals(plain)
    control("variants", short_pages=False, timestamp_unit="seconds")


@pytest.mark.parametrize(
    ("shape", "positions"),
    [("map", (1, 3)), ("array", (1, 3)), ("empty_map", ()), ("empty_array", ())],
)
def test_invalid_rows_are_found_in_every_shape_of_samples(
    system_user: GraphApiClient, control: Control, shape: str, positions: tuple[int, ...]
) -> None:
    control("variants", invalid_samples=shape)
    audience_id, _ = acme(system_user)
    emails = people(5)["EMAIL"].to_list()
    emails[1], emails[3] = "in-clear@example.com", emails[3].upper()
    rows = people(5).with_columns(EMAIL=pl.Series(emails))
    receipt = add_users(system_user, audience_id, rows, place())
    assert (receipt.num_received, receipt.num_invalid_entries) == (5, 2)
    assert receipt.invalid_rows == positions
    control("variants", invalid_samples="map")


@pytest.mark.parametrize(
    "fault",
    [
        {"reset": "before"},
        {"reset": "after"},
        {"body": "truncated"},
        {"body": "html", "status": 502},
        {"body": "html", "status": 200},
        {"body": "empty"},
        {"error": {"code": 2, "status": 500}},
        {"error": {"code": 80003, "subcode": 2446079}},
        {"variants": {"messenger_error": True}},  # code 2 inside a 200
    ],
    ids=str,
)
def test_an_upload_survives_what_may_pass_and_counts_once(
    system_user: GraphApiClient, control: Control, fault: dict[str, Any]
) -> None:
    audience_id, _ = acme(system_user)
    control("faults", path="*/users", **fault)
    receipt = add_users(system_user, audience_id, people(10), place())
    assert receipt.num_received == 10
    members = control(f"audiences/{audience_id}/members", "GET")
    assert members["count"] == 10


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_audience_is_created_once_though_the_answer_is_lost(
    system_user: GraphApiClient, control: Control, moment: str
) -> None:
    control("faults", method="POST", path="*/customaudiences", reset=moment)
    try:
        audience_id, _ = acme(system_user)
    except errors.AmbiguousOutcomeError:
        audience_id, _ = acme(system_user)
    assert [a.id for a in list_custom_audiences(system_user, ACCOUNT)] == [audience_id]


@pytest.mark.parametrize("via_post", [False, True])
def test_people_are_taken_out_by_either_method(
    system_user: GraphApiClient, control: Control, *, via_post: bool
) -> None:
    audience_id, _ = acme(system_user)
    add_users(system_user, audience_id, people(10), place())
    receipt = remove_users(
        system_user, audience_id, people(4), place(session_id=78), via_post=via_post
    )
    assert receipt.num_received == 4
    assert control(f"audiences/{audience_id}/members", "GET")["count"] == 6


def test_a_finished_session_is_recognized(system_user: GraphApiClient) -> None:
    audience_id, _ = acme(system_user)
    add_users(system_user, audience_id, people(10), place(last=True))
    with pytest.raises(errors.SessionEndedError):
        add_users(system_user, audience_id, people(10, start=50), place(2))


def test_a_quota_is_never_exceeded(
    address: str, control: Control, system_user: GraphApiClient
) -> None:
    audience_id, _ = acme(system_user)
    control("quotas", subject=f"act_{ACCOUNT}", calls=100, window_seconds=3600)
    passing = Time()

    def sleep(seconds: float) -> None:
        passing.sleep(seconds)
        control("clock", advance_seconds=seconds)

    with GraphApiClient(
        SYSTEM_USER,
        base_url=address,
        app_secret=APP_SECRET,
        throttle=MemoryThrottle(lambda: passing.now),
        retries=RetryPolicy(throttle_wait_limit=3600),
        sleep=sleep,
    ) as client:
        for _ in range(150):
            get_custom_audience(client, audience_id)
    assert passing.slept > 3600 - 60
    assert {call["status"] for call in control("calls", "GET")["calls"]} == {200}


@pytest.mark.parametrize(
    ("token", "kind"),
    [("EAAnobody", errors.TokenError), (PAGE_TOKEN, errors.PermissionDeniedError)],
)
def test_a_wrong_token_is_recognized_at_once(
    new_client: NewClient, token: str, kind: type[errors.GraphApiError]
) -> None:
    with pytest.raises(kind):
        list(list_custom_audiences(new_client(token), ACCOUNT))


def test_what_is_not_there_is_not_found(system_user: GraphApiClient, page: GraphApiClient) -> None:
    with pytest.raises(errors.NotFoundError):
        get_custom_audience(system_user, "999999999")
    with pytest.raises(errors.NotFoundError):
        get_token(page, "nobody-has-this-one")


def test_people_leave_by_every_identifier(page: GraphApiClient) -> None:
    known = tokens(page).filter(pl.col("recipient_id").is_not_null())
    recipients = known["recipient_id"].unique(maintain_order=True)
    rows = [
        UnsubscribeRow(psid=recipients[0]),
        UnsubscribeRow(email="p1@example.com", phone="+14155551234"),
    ]
    assert unsubscribe(page, PAGE, rows) == 0
    assert recipients[0] not in tokens(page)["recipient_id"]


@pytest.mark.parametrize("shape", ["nested", "flat"])
def test_a_person_can_get_one_request_after_a_message(
    page: GraphApiClient, control: Control, shape: str
) -> None:
    control("variants", optin_response=shape)
    psid = control("people/message", page_id=PAGE)["psid"]
    request = OptInRequest(
        psid=psid, title="News?", image_url="https://example.com/a.png", payload="x"
    )
    assert send_opt_in_request(page, PAGE, request).recipient_id == psid
    with pytest.raises(errors.GraphApiError) as caught:
        send_opt_in_request(page, PAGE, request)
    assert verdict(caught.value) is not Verdict.STOP


def test_webhook_fields_of_a_page_are_subscribed(page: GraphApiClient) -> None:
    assert subscribe_page(page, PAGE)
    (app,) = page_subscriptions(page, PAGE)
    assert app.app_id == APP_ID
    assert "marketing_messages_subscriber_upload_status" in app.fields


def test_tokens_are_described(new_client: NewClient) -> None:
    app = new_client(f"{APP_ID}|{APP_SECRET}")
    assert debug_token(app, SYSTEM_USER).is_valid
    assert debug_token(app, PAGE_TOKEN).kind == "PAGE"
    assert not debug_token(app, "EAAnobody").is_valid
    assert app.version_used == app.version


def test_a_refused_row_is_about_the_request(control: Control, system_user: GraphApiClient) -> None:
    audience_id, _ = acme(system_user)
    control("refusals", hashes=[people(1)["EMAIL"][0]])
    with pytest.raises(errors.ContentRefusedError):
        add_users(system_user, audience_id, people(10), place())
    assert add_users(system_user, audience_id, people(10, start=1), place()).num_received == 10


def test_a_small_audience_refuses_removals(control: Control, system_user: GraphApiClient) -> None:
    audience_id, _ = acme(system_user)
    add_users(system_user, audience_id, people(10), place(last=True))
    control(f"audiences/{audience_id}/small", minimum_members=10)
    session = UploadSession(99, 1, last_batch_flag=True, estimated_num_total=1)
    with pytest.raises(errors.SmallAudienceError, match="when the audience has grown"):
        remove_users(system_user, audience_id, people(1), session)


def test_a_lost_batch_shows_as_a_shortfall_and_missing_subscribers_as_such(
    control: Control, system_user: GraphApiClient
) -> None:
    audience_id, _ = acme(system_user)
    control("faults", path="*/users", nth=2, variants={"batch_lost": True})
    control("faults", path="*/users", nth=3, variants={"subscribers": "invalid"})
    receipts = [
        add_users(system_user, audience_id, people(10, start=10 * seq), place(seq, last=False))
        for seq in (1, 2, 3)
    ]
    assert [receipt.num_received for receipt in receipts] == [10, 10, 20]
    assert [receipt.has_no_subscriber for receipt in receipts] == [False, False, True]
    assert receipts[2].invalid_subscriber_rows == tuple(range(10))


@pytest.mark.parametrize(
    ("subject", "code", "quota"),
    [
        ("app", 4, Quota.APPLICATION),
        (f"act_{ACCOUNT}", 17, Quota.AD_ACCOUNT),
        (f"act_{ACCOUNT}", 80004, Quota.AD_ACCOUNT),
        (f"act_{ACCOUNT}", 80003, Quota.CUSTOM_AUDIENCE),
    ],
)
def test_the_kind_of_quota_and_its_wait_are_known(
    control: Control, system_user: GraphApiClient, subject: str, code: int, quota: Quota
) -> None:
    audience_id, _ = acme(system_user)
    control("quotas", subject=subject, code=code, blocked_for_seconds=1200)
    with pytest.raises(errors.ThrottledError) as caught:
        get_custom_audience(system_user, audience_id)
    assert (caught.value.code, caught.value.quota) == (code, quota)
    # Only the application's header states no time: at 100 % it means 32 minutes.
    assert caught.value.wait_seconds == (1920 if quota is Quota.APPLICATION else 1200)
    with pytest.raises(errors.ThrottledError):
        get_custom_audience(system_user, audience_id)
    (counted,) = control("throttled", "GET")
    assert counted["refusals"] == 1


def test_a_blocked_token_listing_leaves_the_pages_other_calls_free(
    control: Control, page: GraphApiClient
) -> None:
    control("quotas", subject=PAGE, kind="token_listing", blocked_for_seconds=1200)
    with pytest.raises(errors.ThrottledError) as caught:
        list(iter_token_pages(page, PAGE))
    assert caught.value.quota is Quota.TOKEN_LISTING
    assert unsubscribe(page, PAGE, [UnsubscribeRow(psid="1")]) == 0
