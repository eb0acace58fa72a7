"""Daily counts of a Page's tokens."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.tokens.snapshots import take_snapshot

_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("page_id", "text", "The Page's ID at Meta"),
        dg.TableColumn("day", "date", "The day, in the time zone of mm.yaml"),
        dg.TableColumn(
            "as_of", "timestamptz", "The time of the counts: the day's end, or now for today"
        ),
        dg.TableColumn("live", "bigint", "Live tokens"),
        dg.TableColumn("deduplicated", "bigint", "One token per known recipient, and all others"),
        dg.TableColumn(
            "sendable", "bigint", "Deduplicated tokens that may be messaged; null: unknown"
        ),
        dg.TableColumn("custom_audience", "bigint", "Live tokens from a Custom Audience"),
        dg.TableColumn("opt_in", "bigint", "Live tokens from opt-ins"),
        dg.TableColumn("click_to_messenger", "bigint", "Live tokens from click-to-Messenger ads"),
        dg.TableColumn("automation", "bigint", "Live tokens from comment or reply automation"),
        dg.TableColumn("appeared", "bigint", "Tokens first seen on the day"),
        dg.TableColumn("returned", "bigint", "Tokens listed again on the day"),
        dg.TableColumn("vanished", "bigint", "Tokens no longer listed on the day"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE_BY_DAY,
    deps=[subscription_tokens],
    group_name="tokens",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/column_schema": _COLUMNS, "dagster/table_name": "mm.token_snapshot"},
)
@translate_errors
def token_snapshot(
    context: dg.AssetExecutionContext, mm_database: DatabaseResource
) -> dg.MaterializeResult:
    """Counts the Page's tokens at the end of the day, or now if the day is today.

    The counts follow from the tokens and their events, so a past day can be counted while these
    are kept (settings.retention_days). Plot `live`, `growth` and `churn` over the partitions.
    """
    partition = PageDay.of(context)
    kept = timedelta(days=CONFIG.settings.retention_days)
    if partition.begins_at < datetime.now(UTC) - kept:
        raise dg.Failure(
            f"{partition.day} is before settings.retention_days: the changes of its tokens are no "
            "longer kept, so it cannot be counted. The counts made earlier stay.",
            allow_retries=False,
        )
    with mm_database.get().transaction() as connection:
        snapshot = take_snapshot(
            connection,
            CONFIG.pages[partition.page].page_id,
            partition.day,
            begins_at=partition.begins_at,
            ends_at=partition.ends_at,
        )
    grown = snapshot.appeared + snapshot.returned - snapshot.vanished
    before = snapshot.live - grown
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": 1,
            "live": snapshot.live,
            "deduplicated": snapshot.deduplicated,
            "growth": grown,
            "churn": snapshot.vanished / before if before else 0.0,
            "source_custom_audience": snapshot.custom_audience,
            "source_opt_in": snapshot.opt_in,
            "source_click_to_messenger": snapshot.click_to_messenger,
            "source_automation": snapshot.automation,
            **({} if snapshot.sendable is None else {"sendable": snapshot.sendable}),
        }
    )
