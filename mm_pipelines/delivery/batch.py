"""Batches, the sessions they belong to, and Meta's answers, as the ledger records them."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Session:
    """An upload session at Meta.

    Attributes:
        session_id: Positive int64, ours, never used twice.
        estimated_num_total: Rows that the session was opened for.
        opened_at: Before its first batch was sent; Meta closes it 90 minutes later.
    """

    session_id: int
    estimated_num_total: int
    opened_at: datetime


@dataclass(frozen=True)
class InSession:
    """The acknowledged batches of a session: rows sent, and how many of them are invalid."""

    rows: int = 0
    invalid_entries: int = 0


@dataclass(frozen=True)
class OpenSession:
    """A session that can take another batch.

    Attributes:
        last_seq: Sequence number of its last batch.
        before: Its batches so far.
    """

    session: Session
    last_seq: int
    before: InSession


@dataclass(frozen=True)
class Batch:
    """A slice of a delta and its place in a session.

    Attributes:
        first_row: Position in the delta's file, from 0.
        content_sha256: Of the rows' bytes in the request's body.
        last_batch: Whether it closes its session.
        before: What Meta answered to the session's earlier batches.
        people: Rows that change who is a member; None where every row does.
    """

    session: Session
    batch_seq: int
    first_row: int
    row_count: int
    content_sha256: str
    last_batch: bool
    before: InSession
    people: int | None = None


@dataclass(frozen=True)
class Received:
    """Meta's answer to a batch; all but ``num_invalid_entries`` count the whole session.

    The subscriber counts are None where Meta does not give them.
    """

    num_received: int
    num_invalid_entries: int
    num_subscribers_received: int | None = None
    num_subscribers_invalid_entries: int | None = None


@dataclass(frozen=True)
class Progress:
    """The acknowledged part of a delta or a partition."""

    batches: int
    rows: int
    invalid_entries: int


@dataclass(frozen=True)
class Delivered(Progress):
    """The acknowledged part of a partition.

    Attributes:
        subscribers: Subscribers that Meta received; None where it gave no count.
    """

    subscribers: int | None
