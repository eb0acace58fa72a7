"""A Page's tokens in numbers, day by day."""

import dagster as dg

from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.tokens.snapshots import take_snapshot

_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("page_id", "text", "the Page's id at Meta"),
        dg.TableColumn("day", "date", "the day, in mm.yaml's time zone"),
        dg.TableColumn("as_of", "timestamptz", "the day's end, or the look at a day that lasts"),
        dg.TableColumn("live", "bigint", "tokens not gone"),
        dg.TableColumn("deduplicated", "bigint", "one per known recipient, and all others"),
        dg.TableColumn("sendable", "bigint", "of them, those that could be messaged; null: untold"),
        dg.TableColumn("custom_audience", "bigint", "live tokens made from an audience"),
        dg.TableColumn("opt_in", "bigint", "live tokens of people who opted in"),
        dg.TableColumn("click_to_messenger", "bigint", "live tokens of people who came by an ad"),
        dg.TableColumn("automation", "bigint", "live tokens of people whom an automation invited"),
        dg.TableColumn("appeared", "bigint", "tokens first seen on the day"),
        dg.TableColumn("returned", "bigint", "tokens listed again on the day"),
        dg.TableColumn("vanished", "bigint", "tokens no longer listed on the day"),
    ]
)


@dg.asset(
    partitions_def=PAGE_BY_DAY,
    deps=[subscription_tokens],
    group_name="tokens",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/column_schema": _COLUMNS, "dagster/table_name": "mm.token_snapshot"},
)
def token_snapshot(
    context: dg.AssetExecutionContext, database: DatabaseResource
) -> dg.MaterializeResult:
    """The Page's tokens as they were when the day ended, or as they are while it lasts.

    Computed from the tokens and their events, so that a day gone by can be counted afterwards;
    plot `live`, `growth` and `churn` over the partitions.
    """
    partition = PageDay.of(context)
    with database.get().transaction() as connection:
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
