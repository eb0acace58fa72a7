"""Subscription tokens of a Page, page by page as frames.

docs/graph-api.md#listing-tokens and docs/graph-api.md#reading-a-single-token.

Every value is read as text first, since ids and times come as numbers in one of Meta's samples and
as text in the other; a page of 1,000 tokens becomes a frame in about a millisecond.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import polars as pl

from mm_pipelines.graph_api.answer import Answer, text
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.epoch import MILLISECONDS_FROM
from mm_pipelines.graph_api.paging import Page, iter_pages, next_cursor

MAX_LIMIT: Final = 1000
"""Tokens that one page may hold (docs/graph-api.md#listing-tokens)."""

DEDUPLICATED_CAP: Final = 10_000
"""Tokens after which a listing with `do_not_return_duplicates` ends
(docs/graph-api.md#q14-the-cap-of-10000)."""

_TIME = pl.Datetime("us", "UTC")

TOKEN_SCHEMA: Final = pl.Schema(
    {
        "token": pl.String(),
        "recipient_id": pl.String(),
        "topic_title": pl.String(),
        "reoptin": pl.String(),
        "user_token_status": pl.String(),
        "timezone": pl.String(),
        "created_at": _TIME,
        "expires_at": _TIME,
        "next_eligible_at": _TIME,
        "next_eligible_paid_at": _TIME,
        "custom_audience_ids": pl.List(pl.String()),
    }
)
"""The columns of every frame of tokens.

`recipient_id` (a Page-scoped ID) and all times are null for tokens made from a Custom Audience; a
time that Meta leaves out or sets to 0 is null, and an expiry that is null means never.
"""

_TEXTS = {
    "token": "notification_messages_token",
    "recipient_id": "recipient_id",
    "topic_title": "topic_title",
    "reoptin": "notification_messages_reoptin",
    "user_token_status": "user_token_status",
    "timezone": "notification_messages_timezone",
}
_TIMES = {
    "created_at": "creation_timestamp",
    "expires_at": "token_expiry_timestamp",
    "next_eligible_at": "next_eligible_time",
    "next_eligible_paid_at": "next_eligible_time_for_paid_messaging",
}
_AUDIENCES = "custom_audience_ids"

_ROW = pl.Struct(
    {name: pl.String() for name in (*_TEXTS.values(), *_TIMES.values())}
    | {_AUDIENCES: pl.List(pl.String())}
)
_PAGING = pl.Struct({"cursors": pl.Struct({"after": pl.String()}), "next": pl.String()})
_LISTING = {"data": pl.List(_ROW), "paging": _PAGING}

_YEAR_10000 = 253_402_300_800_000


def iter_token_pages(
    client: GraphApiClient,
    page_id: str,
    *,
    limit: int = MAX_LIMIT,
    custom_audience_ids: Sequence[str] | None = None,
    do_not_return_duplicates: bool = False,
    has_received_marketing_message: bool | None = None,
    opt_in_source: Sequence[str] | None = None,
) -> Iterator[pl.DataFrame]:
    """All tokens of a Page, one frame of `TOKEN_SCHEMA` per page; frames may be empty.

    Args:
        client: With the Page's token.
        page_id: Of the Page.
        limit: Tokens per page, at most 1000.
        custom_audience_ids: Only tokens that one of these audiences matched. An audience with
            fewer than 100 matches yields none: an empty answer does not mean that people left.
        do_not_return_duplicates: One token per recipient. The listing then ends at 10,000
            tokens without notice.
        has_received_marketing_message: Undocumented filter, known from Meta's SDK.
        opt_in_source: Undocumented filter, known from Meta's SDK: COMMENT_AUTOMATION, CTM,
            REPLY_AUTOMATION, SUBSCRIBER_LIST.

    Raises:
        CursorExpiredError: Read again from the start.
        ThrottledError: This edge has a quota of its own (code 2300080).
        GraphApiError: As `GraphApiClient.request`.
    """
    params: dict[str, str | int | bool] = {}
    if custom_audience_ids is not None:
        params[_AUDIENCES] = ",".join(custom_audience_ids)
    if do_not_return_duplicates:
        params["do_not_return_duplicates"] = True
    if has_received_marketing_message is not None:
        params["has_received_marketing_message"] = has_received_marketing_message
    if opt_in_source is not None:
        params["opt_in_source"] = ",".join(opt_in_source)
    return iter_pages(
        client, f"{page_id}/notification_message_tokens", params, limit=limit, read=_as_page
    )


def get_token(client: GraphApiClient, token: str) -> pl.DataFrame:
    """Read one token: a frame of `TOKEN_SCHEMA` with one row.

    Raises:
        NotFoundError: Meta does not know the token, or no longer.
        GraphApiError: As `GraphApiClient.request`.
    """
    path = f"notification_messages_{quote(token, safe='')}"
    return client.request("GET", path, lambda answer: _one_token(answer, token))


def _one_token(answer: Answer, token: str) -> pl.DataFrame:
    row = _plain_row(answer.document())
    row[_TEXTS["token"]] = row[_TEXTS["token"]] or token
    return _typed(pl.DataFrame([row], schema=dict(_ROW.to_schema())))


def _as_page(answer: Answer) -> Page[pl.DataFrame]:
    try:
        listing = pl.read_json(answer.raw, schema=_LISTING)
    except pl.exceptions.PolarsError:
        # A shape that the schema does not foresee, or no JSON at all; Polars' text quotes data.
        return _as_page_slowly(answer)
    if listing.height != 1 or listing["data"].null_count():
        raise unreadable("it has no list of tokens", answer.status)
    rows = listing["data"].explode(empty_as_null=False).struct.unnest()
    return _page(rows, listing["paging"][0], answer)


def _as_page_slowly(answer: Answer) -> Page[pl.DataFrame]:
    document = answer.document()
    rows = document.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise unreadable("it has no list of tokens", answer.status)
    frame = pl.DataFrame([_plain_row(row) for row in rows], schema=dict(_ROW.to_schema()))
    return _page(frame, document.get("paging"), answer)


def _page(rows: pl.DataFrame, paging: Any, answer: Answer) -> Page[pl.DataFrame]:
    tokens = _typed(rows)
    if tokens["token"].null_count():
        raise unreadable("a row has no token", answer.status)
    return Page(tokens, next_cursor(paging))


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {
        name: text(row.get(name)) for name in (*_TEXTS.values(), *_TIMES.values())
    }
    audiences = row.get(_AUDIENCES)
    if isinstance(audiences, Mapping):
        audiences = list(audiences.values())
    elif audiences is not None and not isinstance(audiences, list):
        audiences = [audiences]
    plain[_AUDIENCES] = audiences and [str(audience) for audience in audiences]
    return plain


def _typed(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of texts, named as Meta names them, as `TOKEN_SCHEMA`."""
    if not rows.select(_TIMES_ARE_NUMBERS).item():
        rows = rows.with_columns(_number_in_any_form(name) for name in _TIMES.values())
    return rows.select(_TYPED)


def _number_in_any_form(name: str) -> pl.Expr:
    """Unix seconds or milliseconds as text; ISO 8601 becomes milliseconds."""
    column = pl.col(name)
    iso = column.str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%z", time_unit="ms", time_zone="UTC", strict=False
    )
    decimal = column.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    return pl.coalesce(column.cast(pl.Int64, strict=False), iso.to_physical(), decimal)


def _text(name: str) -> pl.Expr:
    if name != "recipient_id":
        return pl.col(name)
    # "0" meant an unknown recipient until January 2026.
    return pl.when(pl.col(name) != "0").then(pl.col(name))


def _is_numbers(name: str) -> pl.Expr:
    column = pl.col(name)
    return column.cast(pl.Int64, strict=False).null_count() == column.null_count()


def _time(name: str) -> pl.Expr:
    """Unix seconds or milliseconds to a time; 0, negative and absurd values to null."""
    number = pl.col(name).cast(pl.Int64, strict=False)
    return (
        pl.when(number.is_between(1, MILLISECONDS_FROM, closed="left"))
        .then(number * 1_000_000)
        .when(number.is_between(MILLISECONDS_FROM, _YEAR_10000, closed="left"))
        .then(number * 1_000)
        .cast(_TIME)
    )


# Built once: on a page of 1,000 tokens, making the expressions takes as long as their work.
_TIMES_ARE_NUMBERS = pl.all_horizontal([_is_numbers(name) for name in _TIMES.values()])
_TYPED = [
    *(_text(theirs).alias(ours) for ours, theirs in _TEXTS.items()),
    *(_time(theirs).alias(ours) for ours, theirs in _TIMES.items()),
    pl.when(pl.col(_AUDIENCES).list.len() > 0).then(pl.col(_AUDIENCES)),
]
