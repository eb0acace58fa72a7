"""Reads single tokens from Meta: those near expiry, changed, or stored by a webhook."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import GraphApiError, NotFoundError
from mm_pipelines.graph_api.tokens import get_token
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens.listing import as_listed
from mm_pipelines.tokens.subscription_token import staging
from mm_pipelines.warehouse.database import Database

# The token came by a webhook, which contains less than the listing.
_LITTLE_KNOWN = (
    "(details_asked_at is null and (created_at is null or source = 'opt_in' and reoptin is null))"
)

# First tokens of webhooks, of which little is known; then those about to expire, which may have
# been renewed; then those that changed. None twice a day.
_WORTH_ASKING = text(f"""
select token
from mm.subscription_token as known
left join (
    select token, max(happened_at) as happened_at
    from mm.token_change
    where page_id = :page_id and happened_at > now() - interval '7 days'
    group by token
) as event using (token)
where page_id = :page_id and gone_at is null and recipient_id is not null
    and coalesce(details_asked_at < now() - interval '1 day', true)
    and (
        {_LITTLE_KNOWN}
        or expires_at between now() and now() + interval '7 days'
        or event.happened_at > coalesce(details_asked_at, '-infinity')
    )
order by
    {_LITTLE_KNOWN} desc,
    (expires_at between now() and now() + interval '7 days') is true desc,
    expires_at,
    token
limit :most
""")

_MARK_ASKED = text("""
update mm.subscription_token
set details_asked_at = now()
where page_id = :page_id and token = any(:tokens)
""")


def tokens_worth_asking(connection: Connection, page_id: str, most: int) -> list[str]:
    """A Page's live tokens that are near expiry, changed lately or came by a webhook.

    Tokens made from a Custom Audience are excluded: a single read returns no more of them than the
    listing (docs/graph-api.md#reading-a-single-token).
    """
    return list(connection.scalars(_WORTH_ASKING, {"page_id": page_id, "most": most}))


def mark_asked(connection: Connection, page_id: str, tokens: Sequence[str]) -> None:
    """Record that these tokens were read."""
    connection.execute(_MARK_ASKED, {"page_id": page_id, "tokens": list(tokens)})


# The client's throttle is shared by its threads; more of them only wait for it.
_SIDE_BY_SIDE = 8


@dataclass(frozen=True)
class DetailsReport:
    """The numbers of tokens that were read, that Meta does not know, and that changed."""

    asked: int
    unknown: int
    changed: int


def refresh_details(
    client: GraphApiClient,
    database: Database,
    page_id: str,
    *,
    most: int,
    suppression_keys: SuppressionKeys | None = None,
) -> DetailsReport:
    """Read the tokens most worth it and merge the answers, which mark no token as gone.

    Args:
        client: With the Page's token.
        database: With the schema `mm`.
        page_id: Of the Page.
        most: The most tokens to read; one call each.
        suppression_keys: As for `subscription_token.staging`.

    Raises:
        GraphApiError: As Meta answers; what was answered before is merged, and the next call
            goes on with the rest.
    """
    with database.lock(f"tokens:{page_id}"):
        with database.transaction() as connection:
            tokens = tokens_worth_asking(connection, page_id, most)
        answers, failure = _ask(client, tokens)
        changed = 0
        known = [answer for answer in answers.values() if answer is not None]
        if known:
            with staging(database, suppression_keys) as staged:
                staged.append(as_listed(pl.concat(known)))
                changed = staged.merge(page_id, staged.compare(page_id)).changed
        with database.transaction() as connection:
            mark_asked(connection, page_id, list(answers))
    if failure is not None:
        raise failure
    return DetailsReport(asked=len(answers), unknown=len(answers) - len(known), changed=changed)


def _ask(
    client: GraphApiClient, tokens: list[str]
) -> tuple[dict[str, pl.DataFrame | None], GraphApiError | None]:
    """The answers by token, None where Meta does not know it, and what ended the asking early."""
    answers: dict[str, pl.DataFrame | None] = {}
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        asked = {pool.submit(get_token, client, token): token for token in tokens}
        for answer in as_completed(asked):
            try:
                answers[asked[answer]] = answer.result()
            except NotFoundError:
                answers[asked[answer]] = None
            except GraphApiError as error:
                pool.shutdown(cancel_futures=True)
                return answers, error
    return answers, None
