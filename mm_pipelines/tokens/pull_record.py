"""Pulls of a Page's tokens: one row each, finished only if its merge was committed."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, Self

from sqlalchemy import Connection, text

Method = Literal["listing", "deduplicated_at_meta"]
"""Whether the whole listing was read, or Meta left out recipients' further tokens."""

# Returns the id of the new pull.
_START = text(
    "insert into mm.token_pull (page_id, method) values (:page_id, :method) returning pull_id"
)

# Returns the newest complete pull of a Page, or no row.
_LAST_COMPLETE = text("""
select pull_id, tokens_listed, vanished, extract(epoch from now() - started_at)::float as age
from mm.token_pull
where page_id = :page_id and complete
order by started_at desc
limit 1
""")

# Records a pull's losses, and returns whether an earlier pull found losses too: at least `apart`
# earlier, at most a day, and not before the last complete pull.
_NOTE_LOSSES = text("""
update mm.token_pull as pull set unconfirmed_losses = :losses
where pull_id = :pull_id
returning exists (
    select from mm.token_pull as earlier
    where earlier.page_id = pull.page_id and earlier.unconfirmed_losses is not null
      and earlier.started_at <= pull.started_at - cast(:apart as interval)
      and earlier.started_at > pull.started_at - interval '1 day'
      and not exists (
          select from mm.token_pull as complete
          where complete.page_id = pull.page_id and complete.complete
            and complete.started_at > earlier.started_at
      )
) as confirmed
""")


@dataclass(frozen=True)
class Pull:
    """A pull that has begun."""

    pull_id: int
    page_id: str
    method: Method

    @property
    def complete(self) -> bool:
        """Whether it lists every token, so that one that it lacks is gone."""
        return self.method == "listing"

    def switched_to(self, method: Method) -> Self:
        """The same pull, read by another method after all."""
        return replace(self, method=method)


@dataclass(frozen=True)
class CompletePull:
    """The newest pull that read a Page's whole listing and was merged.

    Attributes:
        pull_id: Its row in `mm.token_pull`.
        tokens_listed: Distinct tokens that Meta listed.
        vanished: Live tokens that it no longer listed.
        age_seconds: Since it began.
    """

    pull_id: int
    tokens_listed: int
    vanished: int
    age_seconds: float


def start_pull(connection: Connection, page_id: str, method: Method) -> Pull:
    """Record that a pull begins; what it reads is no older than this moment.

    A pull that dies leaves its row without `finished_at`.
    """
    pull_id = connection.scalar(_START, {"page_id": page_id, "method": method})
    assert pull_id is not None  # noqa: S101 - `returning` of one inserted row
    return Pull(int(pull_id), page_id, method)


def last_complete_pull(connection: Connection, page_id: str) -> CompletePull | None:
    """Return the newest complete pull of a Page; None before the first."""
    row = connection.execute(_LAST_COMPLETE, {"page_id": page_id}).one_or_none()
    if row is None:
        return None
    return CompletePull(row.pull_id, row.tokens_listed, row.vanished, row.age)


def note_losses(connection: Connection, pull: Pull, losses: int, *, apart: timedelta) -> bool:
    """Record that a pull's listing lacks live tokens.

    Returns:
        Whether an earlier pull, at least ``apart`` before, found losses too.
    """
    values = {"pull_id": pull.pull_id, "losses": losses, "apart": apart}
    return bool(connection.scalar(_NOTE_LOSSES, values))
