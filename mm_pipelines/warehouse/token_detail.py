"""Which tokens are worth asking Meta about one by one."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

# First those that a webhook brought, of which little is known; then those about to expire, which
# may have been renewed; then those that changed. None twice a day.
_WORTH_ASKING = text("""
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
        (created_at is null and details_asked_at is null)
        or expires_at between now() and now() + interval '7 days'
        or event.happened_at > coalesce(details_asked_at, '-infinity')
    )
order by
    (created_at is null and details_asked_at is null) desc,
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

    Tokens made from a Custom Audience are left out: Meta tells no more of them than the listing
    has (graph-api-facts 2.9).
    """
    return list(connection.scalars(_WORTH_ASKING, {"page_id": page_id, "most": most}))


def mark_asked(connection: Connection, page_id: str, tokens: Sequence[str]) -> None:
    """Remember that Meta was asked about these tokens."""
    connection.execute(_MARK_ASKED, {"page_id": page_id, "tokens": list(tokens)})
