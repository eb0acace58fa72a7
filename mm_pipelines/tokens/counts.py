"""A Page's tokens in numbers."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

_LIVE = text("""
select
    count(*) as live,
    count(recipient_id) as with_recipient,
    count(*) filter (where source = 'custom_audience') as custom_audience,
    count(*) filter (where source = 'opt_in') as opt_in,
    count(*) filter (where source = 'click_to_messenger') as click_to_messenger,
    count(*) filter (where source = 'automation') as automation
from mm.subscription_token
where page_id = :page_id and gone_at is null
""")

_BY_STATUS = text("""
select coalesce(user_token_status, 'not told') as status, count(*) as tokens
from mm.subscription_token
where page_id = :page_id and gone_at is null
group by 1
order by 1
""")

_DEDUPLICATED = text("select count(*) from mm.deduplicated_token where page_id = :page_id")
_SENDABLE = text("select count(*) from mm.sendable_token where page_id = :page_id")

_RECIPIENTS_TWICE = text("""
select count(*) from (
    select recipient_id from mm.deduplicated_token
    where page_id = :page_id and recipient_id is not null
    group by recipient_id having count(*) > 1
) as twice
""")


@dataclass(frozen=True)
class TokenCounts:
    """One Page's live tokens.

    Attributes:
        live: tokens that are not gone.
        with_recipient: of them, those whose recipient Meta tells.
        by_source: of them, by how the person came.
        by_status: of them, by `user_token_status`.
        deduplicated: rows of `mm.deduplicated_token`.
        sendable: rows of `mm.sendable_token`.
    """

    live: int
    with_recipient: int
    by_source: dict[str, int]
    by_status: dict[str, int]
    deduplicated: int
    sendable: int

    @property
    def duplicates(self) -> int:
        """Live tokens left out because their recipient has a better one."""
        return self.live - self.deduplicated

    @property
    def share_sendable(self) -> float:
        """Of the deduplicated tokens, those that may be messaged now; 0 where there are none."""
        return self.sendable / self.deduplicated if self.deduplicated else 0.0


def token_counts(connection: Connection, page_id: str) -> TokenCounts:
    """Count a Page's tokens as they are now."""
    page = {"page_id": page_id}
    live = dict(connection.execute(_LIVE, page).mappings().one())
    return TokenCounts(
        live=live.pop("live"),
        with_recipient=live.pop("with_recipient"),
        by_source={str(source): tokens for source, tokens in live.items()},
        by_status={row.status: row.tokens for row in connection.execute(_BY_STATUS, page)},
        deduplicated=connection.execute(_DEDUPLICATED, page).scalar_one(),
        sendable=connection.execute(_SENDABLE, page).scalar_one(),
    )


def recipients_twice(connection: Connection, page_id: str) -> int:
    """Recipients with more than one row in `mm.deduplicated_token`: none, if the view is right."""
    return int(connection.execute(_RECIPIENTS_TWICE, {"page_id": page_id}).scalar_one())
