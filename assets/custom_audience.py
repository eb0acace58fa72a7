"""The Custom Audience at Meta."""

from collections.abc import Iterator

import dagster as dg

from mm_pipelines.delivery.custom_audience import CustomAudience, find_or_create
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.delivery_plans import audience_spec
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.long_waits import defer_long_waits
from mm_pipelines.partitions import AUDIENCE, single_partition
from mm_pipelines.report.audience_summary import as_markdown, summarize
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.warehouse.database import Database


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=AUDIENCE,
    group_name="delivery",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    # Work that is deferred materializes nothing.
    output_required=False,
    metadata={
        "dagster/table_name": "mm.custom_audience",
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn("audience", "text", description="The key in mm.yaml"),
                dg.TableColumn("custom_audience_id", "text", description="Its ID at Meta"),
                dg.TableColumn("page_id", "text", description="The Page of its subscribers"),
                dg.TableColumn("ad_account_id", "text", description="The ad account that owns it"),
                dg.TableColumn("name", "text", description="Its name at Meta"),
                dg.TableColumn("created_at", "timestamptz", description="When we recorded it"),
            ]
        ),
    },
)
@translate_errors
def custom_audience(
    context: dg.AssetExecutionContext, mm_database: DatabaseResource, mm_graph_api: GraphApiResource
) -> Iterator[dg.MaterializeResult]:
    """Finds the Custom Audience at Meta, or creates it once."""
    audience = single_partition(context)
    throttle = mm_graph_api.throttle_for_audience(audience, mm_database.get())
    with (
        defer_long_waits(context, mm_database.get()) as attempt,
        mm_database.get().lock(f"audience:{audience}") as lock,
        mm_graph_api.client_for_audience(audience, throttle) as client,
    ):
        found, created = find_or_create(lock, mm_database.get(), client, audience_spec(audience))
    if attempt.deferral is None:
        yield dg.MaterializeResult(
            metadata={
                **audience_metadata(found, created=created),
                "summary": audience_summary(mm_database.get(), audience),
            }
        )


def audience_summary(database: Database, audience: str) -> dg.MarkdownMetadataValue:
    """The audience's size, match rate, last days, and what waits."""
    with database.transaction() as connection:
        return dg.MetadataValue.md(as_markdown(summarize(connection, audience)))


def audience_metadata(found: CustomAudience, *, created: bool) -> dict[str, dg.MetadataValue]:
    """The facts of a Custom Audience."""
    return {
        "custom_audience_id": dg.MetadataValue.text(found.custom_audience_id),
        "name": dg.MetadataValue.text(found.name),
        "page_id": dg.MetadataValue.text(found.page_id),
        "ad_account_id": dg.MetadataValue.text(found.ad_account_id),
        "created_now": dg.MetadataValue.bool(created),
    }
