import hashlib
import json
from typing import Any

import httpx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.graph_api import errors
from mm_pipelines.graph_api.invalid_entries import positions_of_samples
from mm_pipelines.graph_api.users import (
    MAX_ROWS,
    UploadReceipt,
    UploadSession,
    add_users,
    remove_users,
    schema_of,
    users_body,
)
from tests.graph_api.scripted import Graph, answer, error_answer

SESSION = UploadSession(session_id=4711, batch_seq=2, last_batch_flag=False, estimated_num_total=9)


def sha(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


ROWS = pl.DataFrame(
    {
        "row_number": [11, 12, 13],
        "EMAIL": [sha("a"), sha("b"), None],
        "PHONE": [sha("1"), None, sha("3")],
        "COUNTRY": [sha("us")] * 3,
    }
)
RECEIVED = {
    "audience_id": "1",
    "session_id": "4711",
    "num_received": 3,
    "num_invalid_entries": 0,
    "invalid_entry_samples": {},
}


def receipt(graph: Graph, document: dict[str, Any], rows: pl.DataFrame = ROWS) -> UploadReceipt:
    with graph.answers(answer({**RECEIVED, **document})).client() as client:
        return add_users(client, "1", rows, SESSION)


# --- the body -----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.text() | st.none(), st.text() | st.none(), st.text()), min_size=1),
    st.integers(1, 2**63 - 1),
    st.integers(1, 10_000),
    st.booleans(),
    st.integers(0, 10**9),
)
def test_a_body_equals_the_rows_written_as_json(
    rows: list[tuple[str | None, str | None, str]],
    session_id: int,
    batch_seq: int,
    last: bool,
    total: int,
) -> None:
    frame = pl.DataFrame(
        rows, schema=dict.fromkeys(("EMAIL", "PHONE", "EXTERN_ID"), pl.String), orient="row"
    )
    session = UploadSession(session_id, batch_seq, last, total)
    assert json.loads(users_body(frame, session)) == {
        "payload": {
            "schema": ["EMAIL", "PHONE", "EXTERN_ID"],
            "data": [[value or "" for value in row] for row in rows],
        },
        "session": {
            "session_id": session_id,
            "batch_seq": batch_seq,
            "last_batch_flag": last,
            "estimated_num_total": total,
        },
    }


def test_the_same_batch_is_the_same_bytes_and_only_schema_columns_leave() -> None:
    body = users_body(ROWS, SESSION)
    assert body == users_body(ROWS.clone(), SESSION)
    assert body == users_body(ROWS.drop("row_number"), SESSION)
    assert b"row_number" not in body


def test_an_absent_value_is_empty_and_never_the_hash_of_nothing() -> None:
    body = users_body(ROWS, SESSION)
    assert sha("").encode() not in body
    assert json.loads(body)["payload"]["data"][1] == [sha("b"), "", sha("us")]


def test_one_key_is_sent_as_rows_too() -> None:
    payload = json.loads(users_body(ROWS.select("EMAIL").head(1), SESSION))["payload"]
    assert payload == {"schema": ["EMAIL"], "data": [[sha("a")]]}


@pytest.mark.parametrize("height", [0, MAX_ROWS + 1])
def test_a_batch_has_between_one_row_and_ten_thousand(height: int) -> None:
    with pytest.raises(ValueError, match="10000 rows"):
        users_body(pl.DataFrame({"EMAIL": ["x"] * height}, schema={"EMAIL": pl.String}), SESSION)


@pytest.mark.parametrize("columns", [["EMAIL", "SURNAME"], ["FN", "LN"], ["row_number"], ["Email"]])
def test_columns_that_meta_would_not_take_are_refused(columns: list[str]) -> None:
    with pytest.raises(ValueError, match=r"SURNAME|EMAIL or a PHONE|Email"):
        schema_of(pl.DataFrame({name: ["x"] for name in columns}))


@pytest.mark.parametrize(("session_id", "batch_seq"), [(0, 1), (-1, 1), (2**63, 1), (1, 0)])
def test_a_session_outside_metas_ranges_is_refused(session_id: int, batch_seq: int) -> None:
    with pytest.raises(ValueError, match=r"session_id|batch_seq"):
        UploadSession(session_id, batch_seq, last_batch_flag=True, estimated_num_total=1)


# --- the calls ----------------------------------------------------------------------------------


def test_a_batch_is_posted_as_the_body_that_was_built(graph: Graph) -> None:
    receipt(graph, {})
    (request,) = graph.requests
    assert (request.method, request.url.path) == ("POST", "/v26.0/1/users")
    assert request.headers["content-type"] == "application/json"
    assert request.content == users_body(ROWS, SESSION)


def test_an_unknown_outcome_is_followed_by_the_same_bytes(graph: Graph) -> None:
    graph.answers(
        httpx.ReadTimeout("slow"), httpx.Response(200, content=b'{"audi'), answer(RECEIVED)
    )
    with graph.client() as client:
        assert add_users(client, "1", ROWS, SESSION).num_received == 3
    assert {request.content for request in graph.requests} == {users_body(ROWS, SESSION)}
    assert len(graph.requests) == 3


def test_people_are_removed_by_delete_or_by_post_with_the_same_body(graph: Graph) -> None:
    with graph.answers(answer(RECEIVED)).client() as client:
        remove_users(client, "1", ROWS, SESSION)
        remove_users(client, "1", ROWS, SESSION, via_post=True)
    delete, post = graph.requests
    assert (delete.method, dict(delete.url.params)) == ("DELETE", {})
    assert (post.method, dict(post.url.params)) == ("POST", {"method": "DELETE"})
    assert delete.content == post.content == users_body(ROWS, SESSION)


def test_ids_are_text_whether_meta_sends_text_or_numbers(graph: Graph) -> None:
    got = receipt(graph, {"session_id": 2**62, "audience_id": 9, "num_received": "3"})
    assert (got.session_id, got.audience_id, got.num_received) == (str(2**62), "9", 3)


def test_the_seeds_short_answer_is_enough(graph: Graph) -> None:
    document = {"audience_id": "1", "num_received": 3, "num_invalid_entries": 0}
    with graph.answers(answer(document)).client() as client:
        assert add_users(client, "1", ROWS, SESSION).session_id is None


def test_an_answer_that_does_not_count_is_an_unknown_outcome(graph: Graph) -> None:
    with graph.answers(answer({"audience_id": "1"})).client() as client:
        with pytest.raises(errors.UnreadableAnswerError):
            add_users(client, "1", ROWS, SESSION)
        assert len(graph.requests) == 5


# --- a failure inside a 200 ---------------------------------------------------------------------


def messenger(**more: Any) -> dict[str, Any]:
    return {"subscription_info": {"messenger": more}}


def test_a_failed_subscription_is_a_failure_though_the_status_is_200(graph: Graph) -> None:
    with pytest.raises(errors.SubscriptionFailedError, match="Page is not eligible") as caught:
        receipt(graph, messenger(error={"message": "The Page is not eligible", "code": 100}))
    assert (caught.value.code, caught.value.status) == (100, 200)
    assert len(graph.requests) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (190, errors.TokenError),
        (2300013, errors.TermsNotAcceptedError),
        (80003, errors.ThrottledError),
        (2, errors.TransientError),
    ],
)
def test_a_failed_subscription_with_a_specific_code_is_that_error(
    graph: Graph, code: int, kind: type[errors.GraphApiError]
) -> None:
    with pytest.raises(kind):
        receipt(graph, messenger(error={"message": "No", "code": code}))


def test_a_failed_subscription_that_may_pass_is_sent_again(graph: Graph) -> None:
    failed = answer({**RECEIVED, **messenger(error={"message": "Try again", "code": 2})})
    with graph.answers(failed, answer(RECEIVED)).client() as client:
        assert add_users(client, "1", ROWS, SESSION).num_received == 3


@pytest.mark.parametrize("error", [None, {}, [], {"message": "", "code": 0}, {"code": None}])
def test_an_empty_subscription_error_is_none(graph: Graph, error: object) -> None:
    got = receipt(
        graph,
        messenger(error=error, num_subscribers_received="3", num_subscribers_invalid_entries=1),
    )
    assert (got.num_subscribers_received, got.num_subscribers_invalid_entries) == (3, 1)


# --- the samples --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "positions", "not_found"),
    [
        ({}, (), 0),
        ([], (), 0),
        (None, (), 0),
        ([sha("b")], (1,), 0),
        ({sha("b"): "not a hash"}, (1,), 0),
        ({"0": sha("3")}, (2,), 0),
        ({"1": "not a hash", "2": "not a hash"}, (1, 2), 0),
        ([f"{sha('a')},{sha('1')},{sha('us')}"], (0,), 0),
        ([json.dumps([sha("b"), "", sha("us")])], (1,), 0),
        ([[sha("b"), "", sha("us")]], (1,), 0),
        ([sha("a"), sha("a"), sha("3")], (0, 2), 0),
        ({"1": json.dumps(["", "", sha("us")])}, (1,), 0),
        (["who is this", sha("1")], (0,), 1),
        ({"999": "who is this"}, (), 1),
        ([""], (), 1),
    ],
)
def test_samples_of_each_documented_shape_lead_to_their_rows(
    graph: Graph, samples: object, positions: tuple[int, ...], not_found: int
) -> None:
    got = receipt(graph, {"num_invalid_entries": 2, "invalid_entry_samples": samples})
    assert (got.invalid_rows, got.samples_not_found) == (positions, not_found)


def test_a_value_that_all_rows_share_does_not_condemn_them_all(graph: Graph) -> None:
    samples = [sha("us")]
    got = receipt(graph, {"num_invalid_entries": 1, "invalid_entry_samples": samples})
    assert (got.invalid_rows, got.samples_not_found) == ((), 1)
    got = receipt(graph, {"num_invalid_entries": 3, "invalid_entry_samples": samples})
    assert got.invalid_rows == (0, 1, 2)


def test_the_subscribers_own_samples_count_too(graph: Graph) -> None:
    got = receipt(
        graph,
        {
            "num_invalid_entries": 1,
            "invalid_entry_samples": [sha("a")],
            **messenger(
                num_subscribers_invalid_entries=2,
                invalid_subscribers_entry_samples={"0": sha("3")},
            ),
        },
    )
    assert got.invalid_rows == (0, 2)
    assert got.invalid_subscriber_rows == (2,)


@pytest.mark.parametrize(
    ("received", "invalid", "expected"),
    [(3, 0, False), (0, 0, True), (3, 3, True), (3, 2, False), (None, None, False), (9, 3, True)],
)
def test_a_receipt_knows_when_messenger_accepted_no_row(
    graph: Graph, received: int | None, invalid: int | None, expected: bool
) -> None:
    counts = {"num_subscribers_received": received, "num_subscribers_invalid_entries": invalid}
    assert receipt(graph, messenger(**counts)).has_no_subscriber is expected


@given(st.data())
def test_no_sample_breaks_the_reading_or_names_a_row_outside_the_batch(data: st.DataObject) -> None:
    json_values = st.recursive(
        st.none()
        | st.integers()
        | st.text()
        | st.sampled_from([sha("a"), "1", "²", "[", "[1", "9" * 5000]),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
    found = positions_of_samples(ROWS.select("EMAIL", "PHONE"), [data.draw(json_values)], at_most=3)
    assert set(found.positions) <= {0, 1, 2}


def test_a_receipt_shows_no_value(graph: Graph) -> None:
    got = receipt(graph, {"num_invalid_entries": 1, "invalid_entry_samples": [sha("a")]})
    assert sha("a") not in repr(got)


def test_an_error_that_quotes_the_payload_does_not_show_it(graph: Graph) -> None:
    reply = error_answer(100, message=f"Invalid entry {sha('a')} of mary@example.com")
    with graph.answers(reply).client() as client, pytest.raises(errors.PermanentError) as caught:
        add_users(client, "1", ROWS, SESSION)
    assert sha("a") not in str(caught.value)
    assert "mary" not in str(caught.value)
