"""Reading a Page's listing, or part of it, into the staging tables."""

from collections.abc import Iterable, Iterator
from typing import Final

import polars as pl

from mm_pipelines.concurrent import prefetch
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import CursorExpiredError
from mm_pipelines.graph_api.tokens import iter_token_pages
from mm_pipelines.tokens.errors import UnstableListingError
from mm_pipelines.tokens.subscription_token import LISTED_TOKEN, Staging

# Rows staged at a time: large enough for COPY to be quick, small enough to hold.
_STAGED_ROWS: Final = 50_000

# A cursor expires if its item is removed; on a large Page that can happen twice.
_ATTEMPTS: Final = 5


class Listing:
    """Reads a Page's listing into the staging tables."""

    def __init__(self, client: GraphApiClient, page_id: str, staged: Staging) -> None:
        self._client = client
        self._page_id = page_id
        self._staged = staged
        self.rows = 0
        self.restarts = 0
        self.audiences_named: set[str] = set()

    def read(self, *, do_not_return_duplicates: bool) -> None:
        """Stage all tokens; start again if a cursor expires, keeping what is staged."""
        for _ in range(_ATTEMPTS):
            self.rows = 0
            pages = iter_token_pages(
                self._client, self._page_id, do_not_return_duplicates=do_not_return_duplicates
            )
            try:
                for frame in frames(pages):
                    self.rows += frame.height
                    named = frame["custom_audience_ids"].explode().drop_nulls().unique()
                    self.audiences_named.update(named)
                    self._staged.append(frame)
            except CursorExpiredError:
                self.restarts += 1
            else:
                return
        raise UnstableListingError(_ATTEMPTS)

    def read_audience(self, custom_audience_id: str) -> None:
        """Stage the people an audience matched (docs/graph-api.md#q5-the-floor-of-100-matches)."""
        pages = iter_token_pages(
            self._client, self._page_id, custom_audience_ids=[custom_audience_id]
        )
        for frame in frames(pages):
            self._staged.append_filtered(frame, custom_audience_id=custom_audience_id)


def frames(pages: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Pages of the Graph API gathered into larger frames of `LISTED_TOKEN`.

    The next pages are read while the caller stages a frame.
    """
    return map(as_listed, prefetch(_gathered(pages)))


def _gathered(pages: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    gathered: list[pl.DataFrame] = []
    rows = 0
    for page in pages:
        gathered.append(page)
        rows += page.height
        if rows >= _STAGED_ROWS:
            yield pl.concat(gathered)
            gathered, rows = [], 0
    if rows:
        yield pl.concat(gathered)


def as_listed(tokens: pl.DataFrame) -> pl.DataFrame:
    """Tokens as the Graph API client has them, as `LISTED_TOKEN`."""
    # Meta returns two times, of the next message and of the next paid one, without saying which
    # applies to a marketing message: the later one is safe (docs/graph-api.md#listing-tokens).
    eligible = pl.max_horizontal("next_eligible_at", "next_eligible_paid_at")
    return tokens.with_columns(
        eligible.alias("next_eligible_at"),
        # As a set: Meta's order means nothing and must not look like a change. `list.sort` takes
        # ten times as long.
        pl.col("custom_audience_ids").list.eval(pl.element().unique().sort()),
    ).select(LISTED_TOKEN.names())
