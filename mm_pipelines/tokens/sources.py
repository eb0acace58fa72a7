"""How people subscribed, by Meta's filter of the listing.

`opt_in_source` is not documented, only known from Meta's SDK (docs/graph-api.md#listing-tokens). A
server that does not know it may refuse it, or ignore it and list everything; both are detected.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Final

import polars as pl

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import PermanentError
from mm_pipelines.graph_api.tokens import iter_token_pages
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens.listing import frames
from mm_pipelines.tokens.subscription_token import Source, staging
from mm_pipelines.warehouse.database import Database

FILTERS: Final[dict[str, Source]] = {
    "CTM": "click_to_messenger",
    "COMMENT_AUTOMATION": "automation",
    "REPLY_AUTOMATION": "automation",
}
"""Meta's filter values and what they mean to us; SUBSCRIBER_LIST shows in the tokens' fields."""


def attribute_sources(
    client: GraphApiClient,
    database: Database,
    page_id: str,
    suppression_keys: SuppressionKeys | None = None,
) -> int:
    """List the tokens of each source and merge the result; the caller holds the pull's lock.

    Returns:
        The tokens listed under a source; 0 where the filter is refused or ignored.

    Raises:
        GraphApiError: As Meta answers, but for a filter that it does not know.
    """
    listings = {name: iter_token_pages(client, page_id, opt_in_source=[name]) for name in FILTERS}
    try:
        first = {name: next(listing, None) for name, listing in listings.items()}
        if _ignored(page for page in first.values() if page is not None):
            return 0
        tokens = 0
        with staging(database, suppression_keys) as staged:
            for name, source in FILTERS.items():
                page = first[name]
                for frame in frames(chain([] if page is None else [page], listings[name])):
                    staged.append_filtered(frame, source=source)
                    tokens += frame.height
            if tokens:
                staged.merge(page_id, staged.compare(page_id))
    except PermanentError:
        # Refused, or a cursor died. The next new token asks again; until then it is an opt-in.
        return 0
    return tokens


def _ignored(first_pages: Iterator[pl.DataFrame]) -> bool:
    # A person came one way: a token under two sources means that the filter had no effect.
    tokens = pl.concat([pl.Series(dtype=pl.String), *(page["token"] for page in first_pages)])
    return tokens.n_unique() < tokens.len()
