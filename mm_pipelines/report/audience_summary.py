"""One audience at a glance: its size, its match rate over the last days, and what waits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from mm_pipelines.delivery import ledger
from mm_pipelines.delivery.open_uploads import not_delivered
from mm_pipelines.report import overview

DAYS = 14
"""The newest days that a summary lists."""

# Returns the Custom Audience of a key.
_FIND = text("""
select custom_audience_id, ad_account_id, name from mm.custom_audience where audience = :audience
""")

# Returns the postponed work of an audience and its days, the first due at the top.
_DEFERRED = text("""
select asset, partition_key, due_at, reason from mm.deferred_work
where split_part(partition_key, '|', 1) = :audience
order by due_at, asset, partition_key
""")


@dataclass(frozen=True)
class AudienceSummary:
    """What a person wants to know of an audience.

    Attributes:
        custom_audience_id: Meta's id; None before its creation.
        people: Distinct people acknowledged, less those removed.
        days: The newest days as `overview.partitions` returns them, the newest first.
        waiting: One sentence for each piece of work that waits or stopped, and why.
    """

    audience: str
    custom_audience_id: str | None
    ad_account_id: str | None
    name: str | None
    people: int
    days: Sequence[dict[str, Any]]
    waiting: Sequence[str]

    @property
    def ads_manager_url(self) -> str | None:
        """The ad account's audiences in Meta's Ads Manager."""
        if self.ad_account_id is None:
            return None
        return f"https://business.facebook.com/adsmanager/audiences?act={self.ad_account_id}"

    @property
    def matched(self) -> str:
        """Meta's newest bounds and the match rate between them."""
        newest = next((day for day in self.days if day["lower_bound"] is not None), None)
        if newest is None:
            return "not reported yet"
        return f"{newest['lower_bound']:,} to {newest['upper_bound'] or 0:,} ({rate(newest)})"


def summarize(connection: Connection, audience: str) -> AudienceSummary:
    """Read the summary of an audience."""
    known = connection.execute(_FIND, {"audience": audience}).one_or_none()
    return AudienceSummary(
        audience=audience,
        custom_audience_id=known.custom_audience_id if known else None,
        ad_account_id=known.ad_account_id if known else None,
        name=known.name if known else None,
        people=ledger.people_acknowledged(connection, audience),
        days=overview.partitions(connection, [audience])[:DAYS],
        waiting=[*_deferred(connection, audience), *_stopped(connection, audience)],
    )


def as_markdown(summary: AudienceSummary) -> str:
    """The summary for the Dagster UI."""
    title = summary.name or summary.audience
    lines = [f"**{title}**: {summary.people:,} people, matched {summary.matched}", ""]
    if summary.ads_manager_url:
        lines += [f"[Open in Ads Manager]({summary.ads_manager_url})", ""]
    lines += [
        f"| {' | '.join(DAY_COLUMNS)} |",
        "|---|---|---:|---:|---:|",
        *(f"| {' | '.join(day_cells(day))} |" for day in summary.days),
        "",
    ]
    lines += [f"- {sentence}" for sentence in summary.waiting] or ["Nothing waits."]
    return "\n".join(lines)


DAY_COLUMNS = ("day", "status", "people in the list", "uploaded", "match rate")
"""The headings of `day_cells`."""


def day_cells(day: dict[str, Any]) -> list[str]:
    """One day as text, in the order of `DAY_COLUMNS`."""
    return [
        day["day"],
        day["status"] or "hashed",
        f"{day['people'] or 0:,}",
        f"{day['uploaded']:,}",
        rate(day),
    ]


def rate(day: dict[str, Any]) -> str:
    """The match rate between Meta's bounds, as text."""
    lower, upper = day["match_rate_lower"], day["match_rate_upper"]
    if lower is None:
        return "?"
    return f"{lower:.0%} to {upper:.0%}" if upper is not None else f"at least {lower:.0%}"


def _deferred(connection: Connection, audience: str) -> list[str]:
    return [
        f"{row.asset} of {row.partition_key} continues at {row.due_at:%Y-%m-%d %H:%M} UTC: "
        f"{row.reason}"
        for row in connection.execute(_DEFERRED, {"audience": audience})
    ]


def _stopped(connection: Connection, audience: str) -> list[str]:
    verbs = {"add": "upload", "remove": "removal"}
    return [
        f"The {verbs.get(open_.operation, open_.operation)} of {open_.day} is {open_.state}: "
        f"{open_.acknowledged:,} of {open_.people:,} rows acknowledged. {open_.why or ''}".strip()
        for open_ in not_delivered(connection)
        if open_.audience == audience
    ]
