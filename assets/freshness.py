"""Checks that fail for each audience and Page whose data are older than mm.yaml allows.

Dagster's freshness policies know no partitions: the newest partition would hide an old one. The
checks run with their asset; between runs the freshness sensor reports them.
"""

import warnings
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from mm_pipelines import health
from mm_pipelines.assets.custom_audience import custom_audience
from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.health import ExpectedFreshness, Freshness, Kind
from mm_pipelines.partitions import AUDIENCE, CONFIG, PAGE
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.warehouse.database import Database

CHECK: Final = "fresh"

ASSET_BY_KIND: Final[dict[Kind, dg.AssetKey]] = {
    "audience": custom_audience.key,
    "page": subscription_tokens.key,
}
"""The asset whose check reports the freshness of each kind."""


def read_freshness(database: Database) -> list[Freshness]:
    """The freshness of every audience and Page of mm.yaml, which ``mm.health`` then uses too."""
    with database.transaction() as connection:
        health.expect(connection, _expected())
        return health.freshness(connection)


def describe(freshness: Freshness) -> str:
    """The outcome of a check as a sentence, with the next step."""
    is_audience = freshness.kind == "audience"
    thing = "list of the audience was uploaded" if is_audience else "pull of the Page's tokens was"
    fact = f"The newest {thing} at {freshness.fresh_at:%Y-%m-%d %H:%M} UTC."
    if not freshness.is_stale:
        return fact
    step = "Look for its customer lists, and see" if is_audience else "See"
    asset = "daily_upload" if is_audience else "subscription_tokens"
    hours = freshness.fresh_within.total_seconds() / 3600
    return f"{fact} mm.yaml expects one within {hours:g} hours. {step} the last run of {asset}."


def hours(freshness: Freshness) -> dict[str, float]:
    """The age of the data and its limit, for the plot of the check."""
    age = datetime.now(UTC) - freshness.fresh_at
    return {
        "age_hours": round(age.total_seconds() / 3600, 1),
        "limit_hours": freshness.fresh_within.total_seconds() / 3600,
    }


def _expected() -> list[ExpectedFreshness]:
    default = CONFIG.settings.fresh_within
    audiences = [
        ExpectedFreshness(
            "audience", key, CONFIG.page_of(key).page_id, each.fresh_within or default
        )
        for key, each in CONFIG.audiences.items()
    ]
    pages = [
        ExpectedFreshness("page", key, page.page_id, page.fresh_within or default)
        for key, page in CONFIG.pages.items()
    ]
    return audiences + pages


def _check(
    context: dg.AssetCheckExecutionContext, database: DatabaseResource, kind: Kind
) -> dg.AssetCheckResult:
    (found,) = (
        freshness
        for freshness in read_freshness(database.get())
        if (freshness.kind, freshness.key) == (kind, context.partition_key)
    )
    return dg.AssetCheckResult(
        passed=not found.is_stale,
        severity=dg.AssetCheckSeverity.WARN,
        description=describe(found),
        metadata=hours(found),
    )


with warnings.catch_warnings():
    # Dagster 1.13 marks partitioned checks as preview.
    warnings.simplefilter("ignore", category=dg.PreviewWarning)

    @dg.asset_check(
        asset=custom_audience,
        name=CHECK,
        partitions_def=AUDIENCE,
        description="A list of the audience was uploaded within fresh_within of mm.yaml.",
    )
    def audience_is_fresh(
        context: dg.AssetCheckExecutionContext, mm_database: DatabaseResource
    ) -> dg.AssetCheckResult:
        """Compare the audience's newest upload with mm.yaml."""
        return _check(context, mm_database, "audience")

    @dg.asset_check(
        asset=subscription_tokens,
        name=CHECK,
        partitions_def=PAGE,
        description="The Page's tokens were pulled within fresh_within of mm.yaml.",
    )
    def page_is_fresh(
        context: dg.AssetCheckExecutionContext, mm_database: DatabaseResource
    ) -> dg.AssetCheckResult:
        """Compare the Page's newest pull with mm.yaml."""
        return _check(context, mm_database, "page")


FRESHNESS_CHECKS: Final = (audience_is_fresh, page_is_fresh)
