"""A Page's daily funnel, from list rows to sendable tokens."""

from datetime import datetime

import dagster as dg

from mm_pipelines.assets.customer_list import customer_list
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, AudienceDay, PageDay
from mm_pipelines.report import growth as reports
from mm_pipelines.report.growth import DayOfPage, Growth
from mm_pipelines.report.growth_chart import as_markdown_image, as_table
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.tokens.counts import token_counts

DAYS_SHOWN = 30

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("page_id", "text", "The Page"),
        dg.TableColumn("day", "date"),
        dg.TableColumn("list_rows", "bigint", "Rows of the day's customer lists"),
        dg.TableColumn("valid", "bigint", "People in the day's payloads"),
        dg.TableColumn("delivered", "bigint", "New people, acknowledged by Meta"),
        dg.TableColumn("processed", "bigint", "New people in batches that Meta has reported on"),
        dg.TableColumn(
            "matched", "bigint", "Lower bound of the people matched in the Page's audiences"
        ),
        dg.TableColumn("tokens", "bigint", "Live tokens"),
        dg.TableColumn("sendable", "bigint", "Live tokens that may be messaged"),
        dg.TableColumn("asked", "bigint", "People asked to opt in"),
        dg.TableColumn("opted_in", "bigint", "Asked people who opted in"),
        dg.TableColumn("left_page", "bigint", "Opt-out requests"),
    ]
)


@dg.asset(
    partitions_def=PAGE_BY_DAY,
    deps=["optin_requests", "unsubscribes", "token_snapshot"],
    group_name="people",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/table_name": "mm.growth_report", "dagster/column_schema": _COLUMNS},
)
@translate_errors
def growth_report(
    context: dg.AssetExecutionContext, database: DatabaseResource
) -> dg.MaterializeResult:
    """Computes the Page's funnel of the day and charts the 30 days up to it.

    List rows, valid people, delivered, processed, matched, tokens, sendable; asked and opted in on
    Messenger; opt-outs.
    """
    partition = PageDay.of(context)
    page_id = CONFIG.pages[partition.page].page_id
    with database.get().transaction() as connection:
        reports.refresh(connection, _day_of_page(context, partition))
        days = reports.until(connection, page_id, partition.day, DAYS_SHOWN)
        sources = token_counts(connection, page_id).by_source
    title = f"{partition.page}, {partition.day}"
    return dg.MaterializeResult(
        metadata={
            "growth": dg.MetadataValue.md(as_markdown_image(days, title)),
            "last_days": dg.MetadataValue.md(as_table(days)),
            **_numbers(days[-1]),
            **{
                f"tokens_from_{source}": dg.MetadataValue.int(count)
                for source, count in sources.items()
            },
        }
    )


def _day_of_page(context: dg.AssetExecutionContext, partition: PageDay) -> DayOfPage:
    audiences = [
        key for key, audience in CONFIG.audiences.items() if audience.page == partition.page
    ]
    return DayOfPage(
        page_id=CONFIG.pages[partition.page].page_id,
        audiences=audiences,
        day=partition.day,
        begin=partition.begins_at,
        end=partition.ends_at,
        is_today=partition.day == datetime.now(CONFIG.zone).date(),
        list_rows=_list_rows(context, [AudienceDay(key, partition.day) for key in audiences]),
    )


def _list_rows(context: dg.AssetExecutionContext, lists: list[AudienceDay]) -> int | None:
    """Rows of the customer lists, as the materializations of customer_list state them."""
    rows = []
    for partition in lists:
        records = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(customer_list.key, asset_partitions=[partition.key]), limit=1
        ).records
        found = records[0].asset_materialization if records else None
        counted = found.metadata.get("dagster/row_count") if found else None
        if counted is not None and isinstance(counted.value, int):
            rows.append(counted.value)
    return sum(rows) if rows else None


def _numbers(growth: Growth) -> dict[str, dg.MetadataValue]:
    """Each figure as an entry of its own, so that the UI plots it over the partitions."""
    return {
        name: dg.MetadataValue.int(value)
        for name, value in vars(growth).items()
        if isinstance(value, int)
    }
