"""Add people to a Custom Audience and remove them, at most 10,000 rows per call.

docs/graph-api.md#uploading-users and docs/graph-api.md#removing-users.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from mm_pipelines.graph_api.answer import Answer, integer, text
from mm_pipelines.graph_api.classification import ErrorEnvelope, classify, unreadable
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import (
    ContentRefusedError,
    PermanentError,
    SubscriptionFailedError,
)
from mm_pipelines.graph_api.invalid_entries import positions_of_samples

MAX_ROWS = 10_000
"""Rows that one call may hold (docs/graph-api.md#uploading-users)."""

SCHEMA_KEYS = frozenset(
    {
        *("EMAIL", "PHONE", "MADID", "EXTERN_ID"),
        *("FN", "LN", "FI", "GEN", "DOBY", "DOBM", "DOBD"),
        *("ST", "CT", "ZIP", "COUNTRY"),
    }
)
"""The schema keys that identify a person for marketing messages."""

_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class UploadSession:
    """One batch's place in a session.

    Attributes:
        session_id: Chosen by the caller, positive, unique in the ad account.
        batch_seq: From 1, without a gap.
        last_batch_flag: Closes the session; 90 minutes after its first batch Meta closes it.
        estimated_num_total: Rows in the whole session.

    Raises:
        ValueError: A number is out of range.
    """

    session_id: int
    batch_seq: int
    last_batch_flag: bool
    estimated_num_total: int

    def __post_init__(self) -> None:
        if not 1 <= self.session_id <= _LARGEST_ID:
            raise ValueError("session_id must be between 1 and 2**63 - 1")
        if self.batch_seq < 1:
            raise ValueError("batch_seq counts from 1")


@dataclass(frozen=True, slots=True)
class UploadReceipt:
    """Meta's answer to one batch.

    Attributes:
        rows_sent: Rows of this batch.
        num_received: Rows of the *session* so far, this batch included: it is cumulative. Compare
            it with all batches sent in the session; a shortfall means that rows were not received.
        num_invalid_entries: Rows of this batch that are badly hashed or cannot be decoded,
            according to Meta approximately. A row that matches no one is not invalid.
        invalid_rows: Positions in the batch, from 0, ascending, of the rows that Meta's samples (at
            most 100 per call) name, those of `invalid_subscriber_rows` included.
        invalid_subscriber_rows: Positions of the rows that the samples of Messenger name.
        samples_not_found: Samples that fit no row of the batch.
        num_subscribers_received: From `subscription_info.messenger`; None if it is absent. Meta
            does not document whether it is cumulative.
        num_subscribers_invalid_entries: Rows that Messenger rejected; None if absent.
    """

    rows_sent: int

    audience_id: str | None
    session_id: str | None
    num_received: int
    num_invalid_entries: int
    invalid_rows: tuple[int, ...]
    invalid_subscriber_rows: tuple[int, ...]
    samples_not_found: int
    num_subscribers_received: int | None
    num_subscribers_invalid_entries: int | None

    @property
    def has_no_subscriber(self) -> bool:
        """Whether Meta received rows of this batch and Messenger accepted none of them.

        False if the answer has no counts of subscribers.
        """
        if not self.num_received or self.num_invalid_entries >= self.rows_sent:
            return False
        rejected = self.num_subscribers_invalid_entries or 0
        return self.num_subscribers_received == 0 or rejected >= self.rows_sent


def schema_of(rows: pl.DataFrame) -> list[str]:
    """The columns of a frame that are sent: the schema keys, in the frame's order.

    Columns in lower case (`row_number`) are internal and never sent.

    Raises:
        ValueError: A column is neither, or there is neither EMAIL nor PHONE.
    """
    keys = [name for name in rows.columns if name != name.lower()]
    if unknown := [name for name in keys if name not in SCHEMA_KEYS]:
        raise ValueError(f"not schema keys of Meta: {', '.join(unknown)}")
    if not {"EMAIL", "PHONE"} & set(keys):
        raise ValueError("marketing messages need an EMAIL or a PHONE column")
    return keys


def users_body(rows: pl.DataFrame, session: UploadSession) -> bytes:
    """The body of one call; the same rows and session always give the same bytes.

    Args:
        rows: 1 to 10,000 rows; string columns named by schema keys. A null is sent as "".
        session: The batch's place; the same for adding and removing.

    Returns:
        `{"payload":{"schema":[…],"data":[[…],…]},"session":{…}}`, UTF-8.

    Raises:
        ValueError: Too few or too many rows, or `schema_of` refuses the columns.
    """
    return b"".join(in_session(users_payload(rows), session))


def users_payload(rows: pl.DataFrame) -> list[bytes]:
    """The part of a body that does not depend on the session, so that it can be built early.

    Returns:
        `{"schema":[…],"data":[[…],…]}`, UTF-8, in pieces, because joining them copies megabytes;
        raises as `users_body`.
    """
    keys = schema_of(rows)
    if not 1 <= rows.height <= MAX_ROWS:
        raise ValueError(f"a batch holds 1 to {MAX_ROWS} rows, not {rows.height}")
    texts = rows.select(pl.col(keys).cast(pl.String).fill_null(""))
    head = b'{"schema":' + orjson.dumps(keys) + b',"data":['
    return [head, _json_rows(texts), b"]}"]


def _json_rows(texts: pl.DataFrame) -> bytes:
    """The rows as JSON arrays with commas between, without spaces.

    Polars joins whole columns, four times as fast as orjson and without blocking the sending
    threads. It does not escape, which hashes, codes and years never need.
    """
    row = '["' + '","'.join(["{}"] * texts.width) + '"]'
    joined: str = texts.select(pl.format(row, *texts.columns).str.join(",")).item()
    data = joined.encode()
    # Escaped as one text, it grows by a byte for each quote of ours, and by more if there is
    # anything else to escape.
    grown = len(orjson.dumps(joined)) - len(b'""') - len(data)
    if grown == 2 * texts.height * texts.width:
        return data
    return orjson.dumps(texts.rows())[1:-1]


def in_session(payload: Sequence[bytes], session: UploadSession) -> list[bytes]:
    """The whole body of a payload with its session, in pieces."""
    place = orjson.dumps(
        {
            "session_id": session.session_id,
            "batch_seq": session.batch_seq,
            "last_batch_flag": session.last_batch_flag,
            "estimated_num_total": session.estimated_num_total,
        }
    )
    head, *middle, tail = payload
    return [b'{"payload":' + head, *middle, tail + b',"session":' + place + b"}"]


def add_users(
    client: GraphApiClient,
    custom_audience_id: str,
    rows: pl.DataFrame,
    session: UploadSession,
    *,
    body: Sequence[bytes] | None = None,
) -> UploadReceipt:
    """Add one batch to an audience.

    Adding the same person again changes nothing, so an unknown outcome is followed by the same
    session, sequence and bytes again (docs/graph-api.md#q17-repeating-a-batch).

    Args:
        client: With the system user's token.
        custom_audience_id: Of the audience.
        rows: The batch.
        session: Its place.
        body: `in_session` of the rows' payload if it was built already.

    Raises:
        SubscriptionFailedError: HTTP 200, but Messenger subscribed no one.
        ValueError: As `users_body`.
        GraphApiError: As `GraphApiClient.request`.
    """
    return client.request(
        "POST",
        f"{custom_audience_id}/users",
        _receipt_for(rows),
        body=body or users_body(rows, session),
    )


def remove_users(
    client: GraphApiClient,
    custom_audience_id: str,
    rows: pl.DataFrame,
    session: UploadSession,
    *,
    via_post: bool = False,
    body: Sequence[bytes] | None = None,
) -> UploadReceipt:
    """Remove one batch from this audience only.

    Removal is not an opt-out: docs/graph-api.md#removing-users.

    Args:
        client: With the system user's token.
        custom_audience_id: Of the audience.
        rows: The batch.
        session: Its place.
        via_post: POST with `method=DELETE`, for proxies that drop the body of a DELETE.
        body: `in_session` of the rows' payload if it was built already.

    Raises:
        ValueError: As `users_body`.
        GraphApiError: As `GraphApiClient.request`.
    """
    return client.request(
        "POST" if via_post else "DELETE",
        f"{custom_audience_id}/users",
        _receipt_for(rows),
        params={"method": "DELETE"} if via_post else None,
        body=body or users_body(rows, session),
    )


def _receipt_for(rows: pl.DataFrame) -> Callable[[Answer], UploadReceipt]:
    return lambda answer: _receipt(answer, rows)


def _receipt(answer: Answer, rows: pl.DataFrame) -> UploadReceipt:
    document = answer.document()
    received = integer(document.get("num_received"))
    if received is None:
        raise unreadable("it has no count of received rows", answer.status)
    messenger = _messenger(document)
    if (failure := _subscription_error(messenger)) is not None:
        raise _subscription_failed(failure, answer.status)
    invalid = integer(document.get("num_invalid_entries")) or 0
    invalid_subscribers = integer(messenger.get("num_subscribers_invalid_entries"))
    sent = rows[schema_of(rows)]
    of_messenger = messenger.get("invalid_subscribers_entry_samples")
    found = positions_of_samples(
        sent,
        [document.get("invalid_entry_samples"), of_messenger],
        at_most=max(invalid, invalid_subscribers or 0),
    )
    rejected = positions_of_samples(sent, [of_messenger], at_most=invalid_subscribers or 0)
    return UploadReceipt(
        rows_sent=rows.height,
        audience_id=text(document.get("audience_id")),
        session_id=text(document.get("session_id")),
        num_received=received,
        num_invalid_entries=invalid,
        invalid_rows=found.positions,
        invalid_subscriber_rows=rejected.positions,
        samples_not_found=found.not_found,
        num_subscribers_received=integer(messenger.get("num_subscribers_received")),
        num_subscribers_invalid_entries=invalid_subscribers,
    )


def _messenger(document: dict[str, Any]) -> dict[str, Any]:
    info = document.get("subscription_info")
    messenger = info.get("messenger") if isinstance(info, dict) else None
    return messenger if isinstance(messenger, dict) else {}


def _subscription_error(messenger: dict[str, Any]) -> ErrorEnvelope | None:
    """The error of `subscription_info.messenger`; an empty one, or code 0, is none."""
    envelope = ErrorEnvelope.of(messenger)
    if envelope is None:
        return None
    says_something = bool(envelope.code) or bool(messenger["error"].get("message"))
    return envelope if says_something else None


def _subscription_failed(envelope: ErrorEnvelope, status: int) -> Exception:
    """SubscriptionFailedError, unless the code is more specific (a throttle, a token, terms)."""
    error = classify(envelope, status)
    if type(error) not in (PermanentError, ContentRefusedError):
        return error
    return SubscriptionFailedError(
        error.message, code=error.code, subcode=error.subcode, status=status
    )
