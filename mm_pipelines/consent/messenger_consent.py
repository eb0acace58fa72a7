"""The consent of each PSID and token: the latest time of opting out and the latest of opting in.

Both times only grow, so the result does not depend on the order or number of the events. At equal
times the opt-out wins. Triggers on ``mm.webhook_event`` and ``mm.unsubscribe_request`` write
opt-outs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, text

ContactKind = Literal["psid", "token"]

# Returns the number of contacts whose suppression this statement lifts. now() is the time of the
# transaction, so it identifies them.
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

# Copies consent to the tokens themselves, so that the views choose a usable one among a recipient's
# tokens. Repeated for tokens that a pull adds after their owner opted out.
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

# Returns the number of suppressed PSIDs of a Page.
_SUPPRESSED_RECIPIENTS = text("""
select count(distinct psid) from mm.suppressed_recipient where page_id = :page_id
""")


@dataclass(frozen=True, slots=True)
class Grant:
    """A person opted in to marketing messages with this PSID or token."""

    page_id: str
    kind: ContactKind
    contact: str = field(repr=False)
    granted_at: datetime


def grant(connection: Connection, grants: Sequence[Grant]) -> int:
    """Record opt-ins in the caller's transaction.

    Returns:
        The number of contacts whose suppression was lifted.
    """
    columns = {
        "page_id": [each.page_id for each in grants],
        "kind": [each.kind for each in grants],
        "contact": [each.contact for each in grants],
        "granted_at": [each.granted_at for each in grants],
    }
    return int(connection.scalar(_GRANT, columns) or 0)


def mark_tokens(connection: Connection, page_id: str) -> int:
    """Update ``stopped_at`` of a Page's tokens from their consent.

    Returns:
        The number of tokens changed; each has an event in ``mm.token_event``.
    """
    return connection.execute(_MARK_TOKENS, {"page_id": page_id}).rowcount


def count_suppressed_recipients(connection: Connection, page_id: str) -> int:
    """Return the number of suppressed people of a Page whose PSID is known."""
    return int(connection.scalar(_SUPPRESSED_RECIPIENTS, {"page_id": page_id}) or 0)
