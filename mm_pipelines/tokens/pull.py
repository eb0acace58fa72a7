"""One pull of a Page's tokens: list them all, ask what the listing is silent on, merge once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import CursorExpiredError
from mm_pipelines.graph_api.tokens import DEDUPLICATED_CAP, iter_token_pages
from mm_pipelines.tokens.errors import ListingUnstable, LossesNotAccepted
from mm_pipelines.warehouse import custom_audience
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.subscription_token import (
    LISTED_TOKEN,
    Differences,
    Merged,
    Staging,
    staging,
)
from mm_pipelines.warehouse.token_pull import Method, start_pull

# Rows staged at a time: large enough for COPY to be quick, small enough to hold.
_STAGED_ROWS = 50_000

# A cursor dies when its item is removed meanwhile; on a large Page that can happen twice.
_ATTEMPTS = 5

# Fewer vanished tokens than this are never too many: one of three would be 33 %.
_FEW = 10


@dataclass(frozen=True)
class PullReport:
    """What a pull read and did.

    Attributes:
        pull_id: its row in `mm.token_pull`.
        method: how it was read in the end.
        complete: whether the whole listing was read, so that missing tokens count as gone.
        rows: rows that the listing held, tokens listed twice counted twice.
        restarts: times that the listing was read again from the top.
        audiences_asked: audiences that the listing did not name and that were asked for.
        merged: what became of the tokens.
    """

    pull_id: int
    method: Method
    complete: bool
    rows: int
    restarts: int
    audiences_asked: int
    merged: Merged


def pull_tokens(
    client: GraphApiClient,
    database: Database,
    page_id: str,
    *,
    removal_share: float,
    accept_losses: bool = False,
    deduplicate_at_meta: bool = False,
) -> PullReport:
    """List every token of a Page and merge the listing into `mm.subscription_token`.

    A pull that ends early, for whatever reason, leaves the table as it was. Two pulls of a Page
    follow one another.

    Args:
        client: with the Page's token.
        database: with the schema `mm`.
        page_id: of the Page.
        removal_share: the share of the Page's live tokens that may vanish in one pull.
        accept_losses: let any number vanish.
        deduplicate_at_meta: let Meta leave out recipients' further tokens. No token counts as
            gone then, and at 10,000 tokens, where such a listing ends, all are listed after all.

    Raises:
        ListingUnstable: cursors kept dying.
        LossesNotAccepted: more tokens would count as gone than `removal_share`.
        GraphApiError: as Meta answers.
    """
    method: Method = "deduplicated_at_meta" if deduplicate_at_meta else "listing"
    with database.lock(f"tokens:{page_id}", wait=True), staging(database) as staged:
        with database.transaction() as connection:
            pull_id = start_pull(connection, page_id, method)
            audiences = {
                audience.custom_audience_id
                for audience in custom_audience.all_recorded(connection)
                if audience.page_id == page_id
            }
        listing = _Listing(client, page_id, staged)
        listing.read(do_not_return_duplicates=deduplicate_at_meta)
        if deduplicate_at_meta and listing.rows >= DEDUPLICATED_CAP:
            method = "listing"
            listing.read(do_not_return_duplicates=False)
        silent = sorted(audiences - listing.audiences_named)
        for audience_id in silent:
            listing.read_audience(audience_id)
        complete = method == "listing"
        differences = staged.compare(page_id, pull_id, complete=complete)
        if not accept_losses:
            _check_losses(differences, removal_share)
        merged = staged.merge(page_id, pull_id, differences, method=method)
    return PullReport(
        pull_id, method, complete, listing.rows, listing.restarts, len(silent), merged
    )


class _Listing:
    """Reads a Page's listing into the staging tables."""

    def __init__(self, client: GraphApiClient, page_id: str, staged: Staging) -> None:
        self._client = client
        self._page_id = page_id
        self._staged = staged
        self.rows = 0
        self.restarts = 0
        self.audiences_named: set[str] = set()

    def read(self, *, do_not_return_duplicates: bool) -> None:
        """Stage all tokens; from the top again where a cursor dies, over what is staged."""
        for _ in range(_ATTEMPTS):
            self.rows = 0
            pages = iter_token_pages(
                self._client, self._page_id, do_not_return_duplicates=do_not_return_duplicates
            )
            try:
                for frame in _batches(pages):
                    self.rows += frame.height
                    named = frame["custom_audience_ids"].explode().drop_nulls().unique()
                    self.audiences_named.update(named)
                    self._staged.append(frame)
            except CursorExpiredError:
                self.restarts += 1
            else:
                return
        raise ListingUnstable(_ATTEMPTS)

    def read_audience(self, custom_audience_id: str) -> None:
        """Stage whom an audience matched; an empty answer says nothing (graph-api-facts 2.8)."""
        pages = iter_token_pages(
            self._client, self._page_id, custom_audience_ids=[custom_audience_id]
        )
        for frame in _batches(pages):
            self._staged.append_filtered(frame, custom_audience_id=custom_audience_id)


def _batches(pages: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Pages gathered into frames of about `_STAGED_ROWS` rows, as `LISTED_TOKEN`."""
    gathered: list[pl.DataFrame] = []
    rows = 0
    for page in pages:
        gathered.append(page)
        rows += page.height
        if rows >= _STAGED_ROWS:
            yield _as_listed(gathered)
            gathered, rows = [], 0
    if rows:
        yield _as_listed(gathered)


def _as_listed(pages: list[pl.DataFrame]) -> pl.DataFrame:
    # Meta tells two times, the next message and the next paid one, without saying which of them
    # binds a marketing message: the later one is safe (graph-api-facts 2.8).
    eligible = pl.max_horizontal("next_eligible_at", "next_eligible_paid_at")
    return (
        pl.concat(pages)
        .with_columns(
            eligible.alias("next_eligible_at"),
            # As a set: Meta's order means nothing, and must not look like a change.
            pl.col("custom_audience_ids").list.unique().list.sort(),
        )
        .select(LISTED_TOKEN.names())
    )


def _check_losses(differences: Differences, removal_share: float) -> None:
    vanished, live = differences.vanished, differences.live_before
    if vanished >= _FEW and vanished > removal_share * live:
        raise LossesNotAccepted(vanished, live, removal_share)
