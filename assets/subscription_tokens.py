"""Every subscription token of a Page, merged into ``mm.subscription_token``."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from mm_pipelines.consent import follow_up_pulls
from mm_pipelines.consent.follow_up_pulls import FOLLOW_UPS, OVERDUE_AFTER
from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration.checks import partitioned_check
from mm_pipelines.orchestration.failures import seconds_to_wait, translate_errors
from mm_pipelines.orchestration.long_waits import defer_long_waits
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.tokens.counts import TokenCounts, recipients_twice, token_counts
from mm_pipelines.tokens.pull import PullReport, pull_tokens
from mm_pipelines.tokens.pull_record import CompletePull, last_complete_pull

# token_refresh pulls every hour: two missed hours are a warning, three a failure.
_WARN_AFTER, _FAIL_AFTER = timedelta(hours=2), timedelta(hours=3)

# A much shorter listing is a warning even where it is too small a loss to stop the pull.
_SHRUNK = 0.9

COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("page_id", "text", "The Page's ID at Meta"),
        dg.TableColumn("token", "text", "The subscription token to send to"),
        dg.TableColumn("recipient_id", "text", "The Page-scoped ID, if Meta reports it"),
        dg.TableColumn("topic_title", "text", "The title that the person agreed to"),
        dg.TableColumn(
            "reoptin", "text", "ENABLED or DISABLED: whether the person may be asked again"
        ),
        dg.TableColumn("user_token_status", "text", "REFRESHED or NOT_REFRESHED, if known"),
        dg.TableColumn("timezone", "text", "The person's time zone, if known"),
        dg.TableColumn("created_at", "timestamptz", "When the token was created, if known"),
        dg.TableColumn("expires_at", "timestamptz", "When the token expires; null: never"),
        dg.TableColumn(
            "next_eligible_at", "timestamptz", "When the next message is allowed; null: any time"
        ),
        dg.TableColumn("custom_audience_ids", "text[]", "The Custom Audiences that matched"),
        dg.TableColumn(
            "source",
            "text",
            "How the person subscribed: custom_audience, opt_in, click_to_messenger or automation",
        ),
        dg.TableColumn(
            "first_seen_at", "timestamptz", "When a pull or a webhook first contained it"
        ),
        dg.TableColumn("last_seen_at", "timestamptz", "When a pull or a webhook last contained it"),
        dg.TableColumn("gone_at", "timestamptz", "When a complete pull no longer contained it"),
        dg.TableColumn("stopped_at", "timestamptz", "When the person opted out"),
        dg.TableColumn("payload", "text", "The payload of the opt-in request that it answers"),
        dg.TableColumn("details_asked_at", "timestamptz", "When its details were last queried"),
    ]
)


class TokenPullConfig(dg.Config):
    """The configuration of one pull."""

    accept_losses: bool = Field(
        default=False,
        description="Accept the loss of more tokens than settings.removal_share allows.",
    )
    deduplicate_at_meta: bool = Field(
        default=False,
        description=(
            "Let Meta list one token per recipient (do_not_return_duplicates), also where it does "
            "not name the recipient. Only for Pages with fewer than 10,000 recipients; no token "
            "counts as gone afterwards."
        ),
    )


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE,
    deps=[dg.AssetDep(asset_key("match_status"), partition_mapping=dg.AllPartitionMapping())],
    group_name="tokens",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    # A pull that is deferred materializes nothing.
    output_required=False,
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=_FAIL_AFTER, warn_window=_WARN_AFTER
    ),
    metadata={"dagster/column_schema": COLUMNS, "dagster/table_name": "mm.subscription_token"},
    check_specs=[
        partitioned_check(
            "one_token_per_recipient",
            asset="subscription_tokens",
            partitions_def=PAGE,
            description="No recipient occurs twice in mm.deduplicated_token.",
        ),
        partitioned_check(
            "listing_not_shrunk",
            asset="subscription_tokens",
            partitions_def=PAGE,
            description="The listing is not much shorter than that of the previous complete pull.",
        ),
        partitioned_check(
            "opt_outs_followed_by_pull",
            asset="subscription_tokens",
            partitions_def=PAGE,
            description="A complete pull follows each opt-out by e-mail or phone within an hour.",
        ),
    ],
)
@translate_errors
def subscription_tokens(
    context: dg.AssetExecutionContext,
    config: TokenPullConfig,
    mm_database: DatabaseResource,
    mm_graph_api: GraphApiResource,
    mm_suppression: SuppressionResource,
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Pulls every token of the Page from Meta, merges and deduplicates them.

    A token counts as gone only when a complete pull no longer lists it. An interrupted pull changes
    nothing. Send by `mm.sendable_token`.
    """
    page = single_partition(context)
    page_id = CONFIG.pages[page].page_id
    with mm_database.get().transaction() as connection:
        before = last_complete_pull(connection, page_id)
    try:
        with (
            defer_long_waits(context, mm_database.get()) as attempt,
            mm_graph_api.client_for_page(page) as client,
        ):
            report = pull_tokens(
                client,
                mm_database.get(),
                page_id,
                removal_share=CONFIG.settings.removal_share,
                accept_losses=config.accept_losses,
                deduplicate_at_meta=config.deduplicate_at_meta,
                suppression_keys=mm_suppression.get(),
            )
    except Exception as error:
        if seconds_to_wait(error, context.retry_number) is None:
            yield _opt_outs_followed_by_pull(mm_database, page_id)
        raise
    if attempt.deferral is not None:
        yield from _checks(mm_database, page_id, None, before)
        return
    context.log.info("%s tokens listed for %s", f"{report.merged.listed:,}", page)
    with mm_database.get().transaction() as connection:
        counts = token_counts(connection, page_id)
    yield dg.MaterializeResult(
        metadata=_pull_metadata(report) | _count_metadata(counts),
        check_results=_checks(mm_database, page_id, report, before),
    )


@dg.asset_check(
    asset=subscription_tokens, description="Every Page had a complete pull in the last three hours."
)
def every_page_pulled(mm_database: DatabaseResource) -> dg.AssetCheckResult:
    """The age of each Page's newest complete pull."""
    with mm_database.get().transaction() as connection:
        pulls = {
            page: last_complete_pull(connection, settings.page_id)
            for page, settings in CONFIG.pages.items()
        }
    late = [
        page
        for page, pull in pulls.items()
        if pull is None or pull.age_seconds > _FAIL_AFTER.total_seconds()
    ]
    return dg.AssetCheckResult(
        passed=not late,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"No complete pull within {_FAIL_AFTER.total_seconds() / 3600:.0f} hours: "
            f"{', '.join(late)}. Materialize their partitions, and check that the schedule "
            "token_refresh is on."
            if late
            else "Every Page had a complete pull in time."
        ),
        metadata={
            f"hours_since_{page}": pull.age_seconds / 3600
            for page, pull in pulls.items()
            if pull is not None
        },
    )


def _pull_metadata(report: PullReport) -> dict[str, dg.MetadataValue]:
    merged = report.merged
    return {
        "pull": dg.MetadataValue.int(report.pull.pull_id),
        "deduplicated_by": dg.MetadataValue.text(
            "us, from the whole listing" if report.pull.complete else "Meta; none counts as gone"
        ),
        "listed": dg.MetadataValue.int(merged.listed),
        "listed_again": dg.MetadataValue.int(max(report.rows - merged.listed, 0)),
        "restarts": dg.MetadataValue.int(report.restarts),
        "audiences_asked": dg.MetadataValue.int(report.audiences_asked),
        "sources_known": dg.MetadataValue.int(report.sources_known),
        "appeared": dg.MetadataValue.int(merged.appeared),
        "changed": dg.MetadataValue.int(merged.changed),
        "returned": dg.MetadataValue.int(merged.returned),
        "vanished": dg.MetadataValue.int(merged.vanished),
        "growth": dg.MetadataValue.int(merged.appeared + merged.returned - merged.vanished),
    }


def _count_metadata(counts: TokenCounts) -> dict[str, dg.MetadataValue]:
    return {
        "dagster/row_count": dg.MetadataValue.int(counts.live),
        "live": dg.MetadataValue.int(counts.live),
        "recipient_known": dg.MetadataValue.int(counts.with_recipient),
        "recipient_unknown": dg.MetadataValue.int(counts.without_recipient),
        "duplicates_removed": dg.MetadataValue.int(counts.duplicates),
        "deduplicated": dg.MetadataValue.int(counts.deduplicated),
        "sendable": dg.MetadataValue.int(counts.sendable),
        "share_sendable": dg.MetadataValue.float(counts.share_sendable),
        **{
            f"source_{source}": dg.MetadataValue.int(tokens)
            for source, tokens in counts.by_source.items()
        },
        **{
            f"status_{status}": dg.MetadataValue.int(tokens)
            for status, tokens in counts.by_status.items()
        },
    }


def _checks(
    database: DatabaseResource,
    page_id: str,
    report: PullReport | None,
    before: CompletePull | None,
) -> list[dg.AssetCheckResult]:
    """Check the Page's tokens; without a report, the pull is deferred."""
    return [
        _one_token_per_recipient(database, page_id),
        _opt_outs_followed_by_pull(database, page_id),
        _listing_not_shrunk(report, before),
    ]


def _one_token_per_recipient(database: DatabaseResource, page_id: str) -> dg.AssetCheckResult:
    with database.get().transaction() as connection:
        twice = recipients_twice(connection, page_id)
    return dg.AssetCheckResult(
        check_name="one_token_per_recipient",
        passed=twice == 0,
        description=(
            f"{twice:,} recipients occur more than once in mm.deduplicated_token and would be "
            "messaged twice. Do not send by it, and check the view's definition."
            if twice
            else "Each known recipient has one token."
        ),
        metadata={"recipients_twice": twice},
    )


def _opt_outs_followed_by_pull(database: DatabaseResource, page_id: str) -> dg.AssetCheckResult:
    with database.get().transaction() as connection:
        opt_outs = follow_up_pulls.count(connection, page_id)
    oldest_at = opt_outs.oldest_without_pull_at
    overdue = oldest_at is not None and datetime.now(UTC) - oldest_at > OVERDUE_AFTER
    days = FOLLOW_UPS[-1].days
    return dg.AssetCheckResult(
        check_name="opt_outs_followed_by_pull",
        passed=not overdue,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{opt_outs.without_pull:,} opt-outs by e-mail or phone that Meta accepted are "
            f"followed by no complete pull, the oldest since {oldest_at:%Y-%m-%d %H:%M} UTC. The "
            "tokens that Meta made from these contacts may still be sendable. Materialize "
            "subscription_tokens for this Page."
            if overdue
            else f"{opt_outs.followed:,} opt-outs by e-mail or phone were accepted by Meta in the "
            f"last {days} days. Pulls go on until then, because Meta may list their tokens longer."
        ),
        metadata={"without_pull": opt_outs.without_pull, "followed": opt_outs.followed},
    )


def _listing_not_shrunk(
    report: PullReport | None, before: CompletePull | None
) -> dg.AssetCheckResult:
    """Compare a pull with the one before."""
    listed_before = before.tokens_listed if before else 0
    listed = report.merged.listed if report else listed_before
    shrunk = report is not None and report.pull.complete and listed < _SHRUNK * listed_before
    return dg.AssetCheckResult(
        check_name="listing_not_shrunk",
        passed=not shrunk,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"Meta listed {listed:,} tokens, after {listed_before:,} in the pull before. If fewer "
            "people unsubscribed, an audience may have fallen below Meta's floor of 100 matched "
            "people, or may have been deleted."
            if shrunk
            else "Meta listed about as many tokens as in the pull before."
        ),
        metadata={"listed": listed, "listed_before": listed_before},
    )
