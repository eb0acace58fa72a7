"""The resources and settings of a delivery."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database


def random_session_id() -> int:
    """A session id that no other run in the ad account uses: 63 random bits."""
    return secrets.randbelow(2**63 - 1) + 1


def utc_now() -> datetime:
    """The current time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Sending:
    """How batches are sent.

    Attributes:
        batch_size: Rows of a batch, at most 10,000.
        sessions_side_by_side: How many sessions at once.
        delete_via_post: Remove by POST with ``method=DELETE``, where a proxy drops DELETE bodies.
        minimum_upload: Rows that an upload session should have; 0 for any number.
    """

    batch_size: int = 10_000
    sessions_side_by_side: int = 1
    delete_via_post: bool = False
    minimum_upload: int = 0


@dataclass(frozen=True)
class DeliveryContext:
    """The resources of one delivery.

    Attributes:
        database: The ledger.
        storage: Where payloads, members and deltas are.
        client: With the token of the audience's ad account.
        say: Receives lines about the progress.
        sending: How batches are sent.
        new_session_id: Returns a positive int64 that was never used before.
        now: Returns the current time.
    """

    database: Database
    storage: Storage
    client: GraphApiClient
    say: Callable[[str], None]
    sending: Sending = field(default_factory=Sending)
    new_session_id: Callable[[], int] = random_session_id
    now: Callable[[], datetime] = utc_now
