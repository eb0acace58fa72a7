import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.tokens import TOKEN_SCHEMA, get_token, iter_token_pages
from tests.graph_api.scripted import Graph, Time, answer, error_answer

NOVEMBER = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)

OPTED_IN = {
    "notification_messages_token": "tok-1",
    "recipient_id": "4567890123456789",
    "notification_messages_reoptin": "ENABLED",
    "creation_timestamp": int(NOVEMBER.timestamp()),
    "token_expiry_timestamp": int((NOVEMBER + timedelta(days=365)).timestamp() * 1000),
    "user_token_status": "REFRESHED",
    "topic_title": "Updates and promotions",
    "notification_messages_timezone": "America/New_York",
    "next_eligible_time": str(int(NOVEMBER.timestamp())),
}
FROM_AUDIENCE = {
    "notification_messages_token": "tok-2",
    "topic_title": "Updates and promotions",
    "notification_messages_reoptin": "ENABLED",
    "custom_audience_ids": ["23847", "23848"],
}


def listing(*rows: dict[str, Any], after: str | None = None) -> httpx.Response:
    paging = {"cursors": {"before": "b", "after": after}, "next": "https://x"} if after else {}
    return answer({"data": list(rows), "paging": paging})


def pull(*replies: httpx.Response, **options: Any) -> tuple[list[pl.DataFrame], Graph]:
    graph = Graph(Time()).answers(*replies)
    with graph.client() as client:
        return list(iter_token_pages(client, "134", **options)), graph


def read(row: dict[str, Any]) -> dict[str, Any]:
    (frame,), _ = pull(listing({"notification_messages_token": "t", **row}))
    assert frame.schema == TOKEN_SCHEMA
    return frame.row(0, named=True)


def test_a_page_becomes_a_frame_of_one_schema() -> None:
    (frame,), graph = pull(listing(OPTED_IN, FROM_AUDIENCE))
    assert frame.schema == TOKEN_SCHEMA
    assert frame.rows(named=True) == [
        {
            "token": "tok-1",
            "recipient_id": "4567890123456789",
            "topic_title": "Updates and promotions",
            "reoptin": "ENABLED",
            "user_token_status": "REFRESHED",
            "timezone": "America/New_York",
            "created_at": NOVEMBER,
            "expires_at": NOVEMBER + timedelta(days=365),
            "next_eligible_at": NOVEMBER,
            "next_eligible_paid_at": None,
            "custom_audience_ids": None,
        },
        {
            "token": "tok-2",
            "recipient_id": None,
            "topic_title": "Updates and promotions",
            "reoptin": "ENABLED",
            "user_token_status": None,
            "timezone": None,
            "created_at": None,
            "expires_at": None,
            "next_eligible_at": None,
            "next_eligible_paid_at": None,
            "custom_audience_ids": ["23847", "23848"],
        },
    ]
    (request,) = graph.requests
    assert request.url.path == "/v26.0/134/notification_message_tokens"
    assert dict(request.url.params) == {"limit": "1000"}


def test_filters_are_sent_as_metas_page_writes_them() -> None:
    _, graph = pull(
        listing(),
        limit=10,
        custom_audience_ids=["1", "2"],
        do_not_return_duplicates=True,
        has_received_marketing_message=False,
        opt_in_source=["CTM", "SUBSCRIBER_LIST"],
    )
    assert dict(graph.requests[0].url.params) == {
        "limit": "10",
        "custom_audience_ids": "1,2",
        "do_not_return_duplicates": "true",
        "has_received_marketing_message": "false",
        "opt_in_source": "CTM,SUBSCRIBER_LIST",
    }


def test_pages_are_pulled_until_there_is_no_next() -> None:
    frames, graph = pull(listing(OPTED_IN, after="A"), listing(after="B"), listing(FROM_AUDIENCE))
    assert [frame.height for frame in frames] == [1, 0, 1]
    assert all(frame.schema == TOKEN_SCHEMA for frame in frames)
    assert pl.concat(frames)["token"].to_list() == ["tok-1", "tok-2"]
    assert [r.url.params.get("after") for r in graph.requests] == [None, "A", "B"]


@pytest.mark.parametrize("value", [12345678901234567890, "12345678901234567890"])
def test_ids_are_text_and_lose_no_digit(value: object) -> None:
    assert read({"recipient_id": value})["recipient_id"] == "12345678901234567890"
    audiences = read({"custom_audience_ids": [value]})["custom_audience_ids"]
    assert audiences == ["12345678901234567890"]


@pytest.mark.parametrize("value", [None, 0, "0"])
def test_an_unknown_recipient_is_null(value: object) -> None:
    assert read({"recipient_id": value})["recipient_id"] is None


@pytest.mark.parametrize("value", [None, []])
def test_no_audience_is_null(value: object) -> None:
    assert read({"custom_audience_ids": value})["custom_audience_ids"] is None


# From the first second that has as many digits as 10**11 milliseconds to the year 5000.
@given(
    st.integers(100_000_001, 95_000_000_000).map(
        lambda seconds: datetime.fromtimestamp(seconds, UTC)
    ),
    st.sampled_from([1, 1000]),
    st.sampled_from([int, str, float]),
)
def test_a_time_is_read_in_either_unit_as_number_or_text(
    moment: datetime, per_second: int, written: type[int] | type[str] | type[float]
) -> None:
    value = int(moment.timestamp()) * per_second
    assert read({"creation_timestamp": written(value)})["created_at"] == moment


def test_a_time_in_iso_8601_is_read_too() -> None:
    assert read({"creation_timestamp": "2026-11-20T10:30:00+0200"})["created_at"] == NOVEMBER


@pytest.mark.parametrize("value", [None, 0, "0", -1, "", "never", 10**19, 10**25, True])
def test_a_time_that_is_none_is_null(value: object) -> None:
    row = read({"token_expiry_timestamp": value, "creation_timestamp": NOVEMBER.timestamp()})
    assert row["expires_at"] is None
    assert row["created_at"] == NOVEMBER


@pytest.mark.parametrize(
    "odd",
    [
        {"custom_audience_ids": "23847"},
        {"custom_audience_ids": {"0": "23847"}},
        {"custom_audience_ids": [23847]},
        {"topic_title": {"text": "?"}, "custom_audience_ids": ["23847"]},
        {"something_new": [{"nested": 1}], "custom_audience_ids": ["23847"]},
    ],
)
def test_an_unforeseen_shape_loses_no_row(odd: dict[str, Any]) -> None:
    row = {**FROM_AUDIENCE, **odd}
    (frame,), _ = pull(listing(OPTED_IN, row))
    assert frame["token"].to_list() == ["tok-1", "tok-2"]
    assert frame["custom_audience_ids"].to_list() == [None, ["23847"]]
    assert frame["created_at"].to_list() == [NOVEMBER, None]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_texts_of_any_script_arrive_as_they_are(titles: list[str]) -> None:
    rows = [
        {"notification_messages_token": f"t{i}", "topic_title": title}
        for i, title in enumerate(titles)
    ]
    (frame,), _ = pull(listing(*rows))
    assert frame["topic_title"].to_list() == titles


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sorry</html>",
        b'{"data":[{"notification_messages_token":"a"',
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":{"0":{}}}',
        b'{"data":["tok"]}',
        b'{"data":[{"recipient_id":"1"}]}',
        b'{"data":[null]}',
        b"",
    ],
)
def test_what_is_no_list_of_tokens_is_never_taken_for_an_empty_one(body: bytes) -> None:
    with pytest.raises(errors.UnreadableAnswerError) as caught:
        pull(httpx.Response(200, content=body))
    assert "tok" not in caught.value.message.replace("token", "")


def test_the_edges_own_limit_is_a_throttle() -> None:
    with pytest.raises(errors.ThrottledError) as caught:
        pull(error_answer(2300080, headers={"X-App-Usage": json.dumps({"call_count": 100})}))
    assert caught.value.code == 2300080


def test_an_expired_cursor_is_raised_so_that_the_pull_starts_again() -> None:
    with pytest.raises(errors.CursorExpiredError):
        pull(listing(OPTED_IN, after="A"), error_answer(100))


def test_one_token_is_a_frame_of_the_same_schema(graph: Graph) -> None:
    graph.answers(answer({key: str(value) for key, value in OPTED_IN.items()}))
    with graph.client() as client:
        frame = get_token(client, "tok-1")
    assert frame.schema == TOKEN_SCHEMA
    assert graph.requests[0].url.path == "/v26.0/notification_messages_tok-1"
    (listed,), _ = pull(listing(OPTED_IN))
    assert frame.equals(listed)


def test_a_token_is_always_one_part_of_the_path(graph: Graph) -> None:
    with graph.answers(answer({"notification_messages_token": "a/b?c"})).client() as client:
        get_token(client, "a/b?c")
    assert graph.requests[0].url.raw_path == b"/v26.0/notification_messages_a%2Fb%3Fc"


def test_a_token_that_meta_does_not_know_is_not_found_and_not_named(graph: Graph) -> None:
    message = "Unsupported get request. Object with ID 'notification_messages_tok-1' does not exist"
    graph.answers(error_answer(100, 33, message=message))
    with graph.client() as client, pytest.raises(errors.NotFoundError) as caught:
        get_token(client, "tok-1")
    assert "tok-1" not in str(caught.value)
