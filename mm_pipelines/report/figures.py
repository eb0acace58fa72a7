"""The numbers that the growth report draws, for one Page over some days."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, text

# Returns the totals of all counted days until a day.
_TOTALS = text("""
select sum(list_rows)::bigint as list_rows, sum(valid)::bigint as valid,
       sum(delivered)::bigint as delivered, sum(processed)::bigint as processed
from mm.growth_report
where page_id = :page_id and day <= :until
""")

# Returns the newest counted day until a day.
_NEWEST = text("""
select matched, tokens, sendable from mm.growth_report
where page_id = :page_id and day <= :until
order by day desc
limit 1
""")

# Returns one row per day with a snapshot.
_SNAPSHOTS = text("""
select day, custom_audience, opt_in, click_to_messenger, automation,
       live - custom_audience - opt_in - click_to_messenger - automation as unknown,
       appeared + returned as gained, vanished as lost
from mm.token_snapshot
where page_id = :page_id and day between :since and :until
order by day
""")

# Returns one row per audience and day whose bounds Meta has reported.
_MATCH_RATES = text("""
select audience, day, match_rate_lower as lower, match_rate_upper as upper
from mm.match_status
where audience = any(:audiences) and day between :since and :until
  and match_rate_lower is not null and match_rate_upper is not null
order by audience, day
""")

# Returns the rejected rows by reason, the most frequent first; a row can have several reasons.
_REJECTIONS = text("""
select reason, count(*) as rows
from mm.rejected_row, unnest(reasons) as reason
where audience = any(:audiences) and day between :since and :until
group by reason
order by rows desc, reason
""")

_STEPS = {
    "list_rows": "rows in lists",
    "valid": "people in payloads",
    "delivered": "new people, delivered",
    "processed": "processed at Meta",
    "matched": "matched, at least",
    "tokens": "live tokens",
    "sendable": "sendable now",
}
SOURCES = {
    "custom_audience": "Custom Audience",
    "opt_in": "opt-in request",
    "click_to_messenger": "Click to Messenger ad",
    "automation": "organic automation",
    "unknown": "unknown",
}


@dataclass(frozen=True)
class Scope:
    """The Page, its audiences and the days of a report.

    Attributes:
        page: The Page's key in mm.yaml.
        audiences: The keys of the audiences to include.
        since: The first day of the curves.
        until: The last day, and the day of the funnel.
    """

    page: str
    page_id: str
    audiences: Sequence[str]
    since: date
    until: date


@dataclass(frozen=True)
class FunnelStep:
    """One step of the funnel.

    Attributes:
        count: Rows, people or tokens; None means unknown.
        conversion: Share of the step before that is known; None if it would exceed 1.
    """

    label: str
    count: int | None
    conversion: float | None


@dataclass(frozen=True)
class Figures:
    """What a report shows of one Page.

    Attributes:
        funnel: From list rows to sendable tokens, the totals of all days until the last one.
        tokens: ``day``, ``source``, ``tokens``: live tokens at the end of each day.
        churn: ``day``, ``kind`` (gained or lost), ``tokens``; lost ones are negative.
        match_rates: ``audience``, ``day``, ``lower``, ``upper``: Meta's bounds as shares.
        rejections: ``reason``, ``rows``.
    """

    scope: Scope
    funnel: Sequence[FunnelStep]
    tokens: Sequence[dict[str, Any]]
    churn: Sequence[dict[str, Any]]
    match_rates: Sequence[dict[str, Any]]
    rejections: Sequence[dict[str, Any]]


def collect(connection: Connection, scope: Scope) -> Figures:
    """Read a report's numbers."""
    parameters = {**vars(scope), "audiences": list(scope.audiences)}

    def rows(statement: Any) -> list[dict[str, Any]]:
        return [_plain(row) for row in connection.execute(statement, parameters).mappings()]

    snapshots = rows(_SNAPSHOTS)
    return Figures(
        scope=scope,
        funnel=funnel({**rows(_TOTALS)[0], **(rows(_NEWEST) or [{}])[0]}),
        tokens=[
            {"day": row["day"], "source": label, "tokens": row[source]}
            for row in snapshots
            for source, label in SOURCES.items()
            if row[source]
        ],
        churn=[
            {"day": row["day"], "kind": kind, "tokens": sign * row[kind]}
            for row in snapshots
            for kind, sign in (("gained", 1), ("lost", -1))
        ],
        match_rates=rows(_MATCH_RATES),
        rejections=rows(_REJECTIONS),
    )


def _plain(row: Any) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()
    }


def funnel(counts: Mapping[str, int | None]) -> list[FunnelStep]:
    """The steps with their conversion rates; an absent count is unknown."""
    steps = []
    before: int | None = None
    for name, label in _STEPS.items():
        count = counts.get(name)
        share = count / before if count is not None and before else None
        steps.append(FunnelStep(label, count, share if share is not None and share <= 1 else None))
        before = before if count is None else count
    return steps
