"""Cursor paging, in one place.

A listing is followed by `cursors.after`. `paging.next` is never called, because it contains the
access token, but it alone shows whether there is more: short and empty pages can have it, and the
last one may keep its cursors (docs/graph-api.md#paging).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

from mm_pipelines.graph_api.answer import Answer
from mm_pipelines.graph_api.classification import unreadable
from mm_pipelines.graph_api.client import GraphApiClient, Params
from mm_pipelines.graph_api.errors import CursorExpiredError, PermanentError, TooMuchDataError

T = TypeVar("T")

_INVALID_PARAMETER = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page: its rows, and the cursor of the next one; None at the end."""

    rows: T
    after: str | None


def next_cursor(paging: Any) -> str | None:
    """The cursor after this page; None at the end of the listing.

    Args:
        paging: The `paging` object of an answer, or None.

    Raises:
        UnreadableAnswerError: There is a next page without a cursor.
    """
    if not isinstance(paging, Mapping) or not paging.get("next"):
        return None
    cursors = paging.get("cursors")
    after = cursors.get("after") if isinstance(cursors, Mapping) else None
    if not after:
        after = next(iter(parse_qs(urlsplit(str(paging["next"])).query).get("after", ())), None)
    if not after:
        raise unreadable("there is a next page without a cursor")
    return str(after)


def iter_pages(
    client: GraphApiClient,
    path: str,
    params: Params,
    *,
    limit: int,
    read: Callable[[Answer], Page[T]],
) -> Iterator[T]:
    """The rows of every page, from the start.

    Args:
        client: With a token that may read the listing.
        path: Of the edge.
        params: Of the first page; `limit` and `after` are added.
        limit: Rows per page; halved whenever the API finds the answer too large.
        read: Converts an answer to a page.

    Raises:
        CursorExpiredError: Read again from the start.
        GraphApiError: As `GraphApiClient.request`.
    """
    after: str | None = None
    while True:
        query: dict[str, str | int | bool] = {**params, "limit": limit}
        if after is not None:
            query["after"] = after
        try:
            page = client.request("GET", path, read, params=query)
        except TooMuchDataError:
            if limit == 1:
                raise
            limit = max(1, limit // 2)
            continue
        except PermanentError as error:
            # The first page was read with the same parameters: only the cursor can be wrong.
            if after is None or error.code != _INVALID_PARAMETER:
                raise
            raise CursorExpiredError(
                "A paging cursor is no longer valid",
                code=error.code,
                subcode=error.subcode,
                status=error.status,
                fbtrace_id=error.fbtrace_id,
            ) from None
        yield page.rows
        if page.after is None:
            return
        if page.after == after:
            raise CursorExpiredError("The listing points back to the page just read")
        after = page.after


def iter_rows(
    client: GraphApiClient, path: str, params: Params, *, limit: int
) -> Iterator[dict[str, Any]]:
    """Every row of a listing as a JSON object; raises as `iter_pages`."""
    for rows in iter_pages(client, path, params, limit=limit, read=_as_page):
        yield from rows


def _as_page(answer: Answer) -> Page[list[dict[str, Any]]]:
    document = answer.document()
    rows = document.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise unreadable("it has no list of rows", answer.status)
    return Page(rows, next_cursor(document.get("paging")))
