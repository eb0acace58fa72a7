"""Counts of a Page's tokens."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

# Returns the number of live tokens, of those with a known recipient, and of those of each source.
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

# Returns the number of live tokens by status.
_BY_STATUS = text("""
select coalesce(user_token_status, 'unknown') as status, count(*) as tokens
from mm.subscription_token
where page_id = :page_id and gone_at is null
group by 1
order by 1
""")

# Return the number of rows of the views.
_DEDUPLICATED = text("select count(*) from mm.deduplicated_token where page_id = :page_id")
_SENDABLE = text("select count(*) from mm.sendable_token where page_id = :page_id")

# Returns the number of recipients with more than one row in the view.
_RECIPIENTS_TWICE = text("""
select count(*) from (
    select recipient_id from mm.deduplicated_token
    where page_id = :page_id and recipient_id is not null
    group by recipient_id having count(*) > 1
) as twice
""")


@dataclass(frozen=True)
class TokenCounts:
    """The live tokens of one Page: those that are not gone.

    Attributes:
        live: All of them.
        with_recipient: Those whose recipient is known.
        by_source: By how the person subscribed.
        by_status: By `user_token_status`.
        deduplicated: Rows of `mm.deduplicated_token`.
        sendable: Rows of `mm.sendable_token`.
    """

    live: int
    with_recipient: int
    by_source: dict[str, int]
    by_status: dict[str, int]
    deduplicated: int
    sendable: int

    @property
    def without_recipient(self) -> int:
        """The tokens whose recipient is unknown, so that they cannot be deduplicated."""
        return self.live - self.with_recipient

    @property
    def duplicates(self) -> int:
        """The tokens left out because their recipient has a better one."""
        return self.live - self.deduplicated

    @property
    def share_sendable(self) -> float:
        """The sendable share of the deduplicated tokens; 0 if there are none."""
        return self.sendable / self.deduplicated if self.deduplicated else 0.0


def token_counts(connection: Connection, page_id: str) -> TokenCounts:
    """Count a Page's live tokens."""
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
    """Return the number of recipients with several rows in `mm.deduplicated_token`: always 0."""
    return int(connection.execute(_RECIPIENTS_TWICE, {"page_id": page_id}).scalar_one())
