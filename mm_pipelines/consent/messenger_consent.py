"""What people said on Messenger: the latest time they stopped and the latest they granted.

Both times only ever grow, so whatever order the events arrive in, and however often, the state is
the one that their times say; at equal times stopping wins. Stopping is written by the trigger on
``mm.unsubscribe_request``, so that there is no way to leave without a request that can be followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, text

ContactKind = Literal["psid", "token"]

# The transaction's own time tells the rows lifted now from those lifted before.
_GRANT = text("""
with granted as (
    insert into mm.messenger_consent as known (page_id, contact_kind, contact, granted_at)
    select page_id, contact_kind, contact, max(granted_at)
    from unnest(
        cast(:page_id as text[]), cast(:kind as text[]), cast(:contact as text[]),
        cast(:granted_at as timestamptz[])
    ) as event (page_id, contact_kind, contact, granted_at)
    group by page_id, contact_kind, contact
    order by page_id, contact_kind, contact
    on conflict (page_id, contact_kind, contact) do update
    set granted_at = greatest(known.granted_at, excluded.granted_at),
        lifted_at = case when known.stopped and excluded.granted_at > known.stopped_at
                         then now() else known.lifted_at end
    returning lifted_at
)
select count(*) filter (where lifted_at = now()) from granted
""")

# Tokens carry what their consent says, so that among a recipient's tokens the one that may be used
# is chosen. It is told again for tokens that a pull brought after their owner had spoken.
_MARK_TOKENS = text("""
with consent as (
    select contact as token, stopped_at from mm.messenger_consent
    where page_id = :page_id and contact_kind = 'token' and stopped
    union all
    select known.token, null
    from mm.subscription_token known
    join mm.messenger_consent spoken
      on spoken.page_id = known.page_id and spoken.contact_kind = 'token'
      and spoken.contact = known.token
    where known.page_id = :page_id and known.stopped_at is not null and not spoken.stopped
),
marked as (
    update mm.subscription_token known set stopped_at = consent.stopped_at
    from consent
    where known.page_id = :page_id and known.token = consent.token
      and known.stopped_at is distinct from consent.stopped_at
    returning known.page_id, known.token, known.stopped_at
)
insert into mm.token_change (page_id, token, event, happened_at)
select page_id, token, case when stopped_at is null then 'resumed' else 'stopped' end, now()
from marked
""")

_SUPPRESSED_RECIPIENTS = text("""
select count(distinct psid) from mm.suppressed_recipient where page_id = :page_id
""")


@dataclass(frozen=True, slots=True)
class Grant:
    """A person agreed to marketing messages, by the contact through which they said so."""

    page_id: str
    kind: ContactKind
    contact: str = field(repr=False)
    granted_at: datetime


def grant(connection: Connection, grants: Sequence[Grant]) -> int:
    """Record in the caller's transaction that people agreed.

    Returns:
        How many contacts had been stopped before and are free again: each is a person's return.
    """
    columns = {
        "page_id": [each.page_id for each in grants],
        "kind": [each.kind for each in grants],
        "contact": [each.contact for each in grants],
        "granted_at": [each.granted_at for each in grants],
    }
    return int(connection.scalar(_GRANT, columns) or 0)


def mark_tokens(connection: Connection, page_id: str) -> int:
    """Bring ``stopped_at`` of a Page's tokens up to what their owners said last.

    Returns:
        How many tokens changed; each has its event in ``mm.token_event``.
    """
    return connection.execute(_MARK_TOKENS, {"page_id": page_id}).rowcount


def count_suppressed_recipients(connection: Connection, page_id: str) -> int:
    """How many people of a Page are suppressed on Messenger, as far as their PSID is known."""
    return int(connection.scalar(_SUPPRESSED_RECIPIENTS, {"page_id": page_id}) or 0)
