"""How long the past of tokens is kept; daily counts (`snapshots`) outlive it."""

from datetime import datetime

from sqlalchemy import Connection, text

# Deletes tokens that have been gone since before a time.
_FORGET_GONE_TOKENS = text("""
delete from mm.subscription_token where ctid = any (array(
    select ctid from mm.subscription_token where gone_at < :before limit :limit
))
""")

# Deletes changes of an earlier time.
_FORGET_CHANGES = text("""
delete from mm.token_change where ctid = any (array(
    select ctid from mm.token_change where happened_at < :before limit :limit
))
""")

# Deletes pulls of an earlier time, except each Page's newest complete one and those after it.
_FORGET_PULLS = text("""
delete from mm.token_pull where pull_id = any (array(
    select pull_id from mm.token_pull as pull
    where started_at < :before and exists (
        select from mm.token_pull as newer
        where newer.page_id = pull.page_id and newer.complete and newer.finished_at is not null
          and newer.started_at > pull.started_at
    )
    limit :limit
))
""")


def forget_gone_tokens(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to ``limit`` tokens that were gone before a time, and return how many."""
    return connection.execute(_FORGET_GONE_TOKENS, {"before": before, "limit": limit}).rowcount


def forget_changes(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to ``limit`` changes of an earlier time, and return how many."""
    return connection.execute(_FORGET_CHANGES, {"before": before, "limit": limit}).rowcount


def forget_pulls(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to ``limit`` pulls of an earlier time, and return how many.

    A Page's newest complete pull stays, because the next one is compared with it.
    """
    return connection.execute(_FORGET_PULLS, {"before": before, "limit": limit}).rowcount
