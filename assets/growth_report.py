"""A Page's daily funnel, from list rows to sendable tokens."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, PageDay
from mm_pipelines.report import figures, growth
from mm_pipelines.report.figures import Scope
from mm_pipelines.report.growth import DayOfPage, Growth
from mm_pipelines.report.growth_table import as_markdown, payloads_as_markdown
from mm_pipelines.resources.database import DatabaseResource

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
        dg.TableColumn("sendable", "bigint", "Live tokens that may be messaged; null: unknown"),
        dg.TableColumn("asked", "bigint", "People asked to opt in"),
        dg.TableColumn("opted_in", "bigint", "Asked people who opted in"),
        dg.TableColumn("left_page", "bigint", "Opt-out requests"),
        dg.TableColumn(
            "opt_ins_by_payload", "jsonb", "People asked and opted in, by the request's payload"
        ),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE_BY_DAY,
    deps=[asset_key("optin_requests"), asset_key("unsubscribes"), asset_key("token_snapshot")],
    group_name="people",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/table_name": "mm.growth_report", "dagster/column_schema": _COLUMNS},
)
@translate_errors
def growth_report(
    context: dg.AssetExecutionContext, mm_database: DatabaseResource
) -> dg.MaterializeResult:
    """Counts the Page's day and draws the 30 days up to it.

    The picture shows the funnel from list rows to sendable tokens with conversion rates, tokens by
    source, churn, match rates between Meta's bounds, and rejected rows by reason. `mm report`
    writes the same as an interactive file.
    """
    from mm_pipelines.report.charts import picture  # importing Altair takes a second

    partition = PageDay.of(context)
    page_id = CONFIG.pages[partition.page].page_id
    audiences = CONFIG.audiences_of(partition.page)
    first = partition.day - timedelta(days=DAYS_SHOWN - 1)
    now = datetime.now(UTC)
    with mm_database.get().transaction() as connection:
        day = DayOfPage.at(page_id, audiences, partition.day, CONFIG.zone, now)
        growth.refresh(connection, day)
        days = growth.until(connection, page_id, partition.day, DAYS_SHOWN)
        scope = Scope(partition.page, page_id, audiences, first, partition.day)
        drawn = figures.collect(connection, scope)
    return dg.MaterializeResult(
        metadata={
            "growth": dg.MetadataValue.md(picture(drawn)),
            "last_days": dg.MetadataValue.md(as_markdown(days)),
            "opt_ins_by_payload": dg.MetadataValue.md(payloads_as_markdown(days[-1])),
            **_numbers(days[-1]),
        }
    )


def _numbers(growth: Growth) -> dict[str, dg.MetadataValue]:
    """The known figures, each as an entry of its own, so that the UI plots it by partition."""
    return {
        name: dg.MetadataValue.int(value)
        for name, value in vars(growth).items()
        if isinstance(value, int)
    }
