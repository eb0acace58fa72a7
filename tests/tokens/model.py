"""A reference model of the token table: plain dictionaries, one rule a line."""

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Self

import polars as pl

from mm_pipelines.tokens.subscription_token import LISTED_TOKEN

NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Listed:
    """A token as Meta lists it; the fields are `LISTED_TOKEN`'s."""

    token: str
    recipient_id: str | None = None
    topic_title: str | None = None
    reoptin: str | None = None
    user_token_status: str | None = None
    timezone: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    next_eligible_at: datetime | None = None
    custom_audience_ids: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Known(Listed):
    """A token as the table knows it."""

    source: str = ""
    gone: bool = False

    @classmethod
    def first(cls, listed: Listed) -> Self:
        audience_made = listed.recipient_id is None or listed.custom_audience_ids is not None
        return cls(
            **{name: getattr(listed, name) for name in LISTED_TOKEN.names()},
            source="custom_audience" if audience_made else "opt_in",
        )


@dataclass(frozen=True)
class Filtered:
    """The answer to a filter, for one token."""

    token: str
    custom_audience_id: str | None = None
    source: str | None = None


@dataclass
class TokenTable:
    """Every token ever listed, by itself."""

    known: dict[str, Known] = field(default_factory=dict)

    def merge(self, rows: list[Listed], filtered: list[Filtered], *, complete: bool) -> None:
        listed = {row.token: row for row in sorted(rows, key=_preference, reverse=True)}
        for token, row in listed.items():
            told = [answer for answer in filtered if answer.token == token]
            self.known[token] = _merged(row, self.known.get(token), told)
        if complete:
            for token in self.known.keys() - listed.keys():
                self.known[token] = replace(self.known[token], gone=True)

    def deduplicated(self) -> set[str]:
        best: dict[str, Known] = {}
        for known in self.known.values():
            person = f"recipient {known.recipient_id}" if known.recipient_id else known.token
            if not known.gone and (
                person not in best or _goodness(known) < _goodness(best[person])
            ):
                best[person] = known
        return {known.token for known in best.values()}

    def sendable(self) -> set[str]:
        return {token for token in self.deduplicated() if _may_be_messaged(self.known[token])}


def frame(rows: list[Listed]) -> pl.DataFrame:
    """Rows as a pull stages them."""
    return pl.DataFrame(
        [{field.name: getattr(row, field.name) for field in fields(Listed)} for row in rows],
        schema=LISTED_TOKEN,
    )


def _merged(row: Listed, before: Known | None, told: list[Filtered]) -> Known:
    known = before or Known.first(row)
    values = {
        name: getattr(row, name) if getattr(row, name) is not None else getattr(known, name)
        for name in LISTED_TOKEN.names()
    }
    if row.recipient_id is not None:
        values |= {"expires_at": row.expires_at, "next_eligible_at": row.next_eligible_at}
    audiences = set(values["custom_audience_ids"] or ())
    audiences |= {answer.custom_audience_id for answer in told if answer.custom_audience_id}
    values["custom_audience_ids"] = tuple(sorted(audiences))
    sources = sorted(answer.source for answer in told if answer.source)
    return Known(**values, source=sources[0] if sources else known.source, gone=False)


def _preference(row: Listed) -> tuple[object, ...]:
    """The order in which one of several rows of a token is taken: the least."""
    return (
        _none_last(row.recipient_id),
        _latest_first(row.created_at, none_is_latest=False),
        _latest_first(row.expires_at, none_is_latest=True),
        _latest_first(row.next_eligible_at, none_is_latest=False),
        _none_last(row.user_token_status),
        _none_last(row.reoptin),
        _none_last(row.topic_title),
        _none_last(row.timezone),
        row.custom_audience_ids is None,
        # The greatest array first; only ids of one digit are drawn.
        (*(-int(audience) for audience in row.custom_audience_ids or ()), 1),
    )


def _goodness(known: Known) -> tuple[object, ...]:
    """The order in which one of a recipient's tokens is taken: the least."""
    return (
        known.expires_at is not None and known.expires_at <= NOW,
        known.reoptin != "ENABLED",
        _latest_first(known.expires_at, none_is_latest=True),
        _latest_first(known.created_at, none_is_latest=False),
        known.token,
    )


def _may_be_messaged(known: Known) -> bool:
    expired = known.expires_at is not None and known.expires_at <= NOW
    waiting = known.next_eligible_at is not None and known.next_eligible_at > NOW
    return not expired and not waiting


def _none_last(value: str | None) -> tuple[bool, str]:
    return (value is None, value or "")


def _latest_first(moment: datetime | None, *, none_is_latest: bool) -> tuple[int, float]:
    if moment is None:
        return (0 if none_is_latest else 2, 0.0)
    return (1, -moment.timestamp())
