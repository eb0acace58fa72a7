"""Details of single tokens, which the listing does not contain."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from mm_pipelines.assets.subscription_tokens import COLUMNS, subscription_tokens
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.long_waits import defer_long_waits
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.tokens.details import refresh_details


class TokenDetailsConfig(dg.Config):
    """The configuration of one run."""

    most: int = Field(
        default=1_000, ge=1, description="The most tokens to query; each one is an API call."
    )


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE,
    deps=[subscription_tokens],
    group_name="tokens",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    # Work that is deferred materializes nothing.
    output_required=False,
    metadata={"dagster/column_schema": COLUMNS, "dagster/table_name": "mm.subscription_token"},
)
@translate_errors
def token_details(
    context: dg.AssetExecutionContext,
    config: TokenDetailsConfig,
    mm_database: DatabaseResource,
    mm_graph_api: GraphApiResource,
    mm_suppression: SuppressionResource,
) -> Iterator[dg.MaterializeResult]:
    """Queries single tokens at Meta: near expiry, recently changed, or received by webhook.

    A token that Meta no longer knows stays unchanged until the next complete pull.
    """
    page = single_partition(context)
    with (
        defer_long_waits(context, mm_database.get()) as attempt,
        mm_graph_api.client_for_page(page) as client,
    ):
        report = refresh_details(
            client,
            mm_database.get(),
            CONFIG.pages[page].page_id,
            most=config.most,
            suppression_keys=mm_suppression.get(),
        )
    if attempt.deferral is not None:
        return
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.asked,
            "unknown_to_meta": report.unknown,
            "changed": report.changed,
        }
    )
