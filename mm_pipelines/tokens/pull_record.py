"""Pulls of a Page's tokens: one row each, finished only if its merge was committed."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from sqlalchemy import Connection, text

Method = Literal["listing", "deduplicated_at_meta"]
"""Whether the whole listing was read, or Meta left out recipients' further tokens."""

_START = text(
    "insert into mm.token_pull (page_id, method) values (:page_id, :method) returning pull_id"
)

_LAST_COMPLETE = text("""
select pull_id, tokens_listed, vanished, extract(epoch from now() - started_at)::float as age
from mm.token_pull
where page_id = :page_id and complete
order by started_at desc
limit 1
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
        pull_id: its row in `mm.token_pull`.
        tokens_listed: distinct tokens that Meta listed.
        vanished: live tokens that it no longer listed.
        age_seconds: since it began.
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
    """The newest complete pull of a Page; None before the first."""
    row = connection.execute(_LAST_COMPLETE, {"page_id": page_id}).one_or_none()
    if row is None:
        return None
    return CompletePull(row.pull_id, row.tokens_listed, row.vanished, row.age)
