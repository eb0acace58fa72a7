"""What Meta knows of single tokens, beyond the listing."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from mm_pipelines.assets.subscription_tokens import COLUMNS, subscription_tokens
from mm_pipelines.orchestration.failures import meta_failures
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.tokens.details import refresh_details


class TokenDetailsConfig(dg.Config):
    """How much to ask."""

    most: int = Field(
        default=1_000, ge=1, description="Tokens asked about at most; each is one call of the API"
    )


@dg.asset(
    partitions_def=PAGE,
    deps=[subscription_tokens],
    group_name="tokens",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    # Work that is deferred materializes nothing.
    output_required=False,
    metadata={"dagster/column_schema": COLUMNS, "dagster/table_name": "mm.subscription_token"},
)
def token_details(
    context: dg.AssetExecutionContext,
    config: TokenDetailsConfig,
    database: DatabaseResource,
    graph_api: GraphApiResource,
) -> Iterator[dg.MaterializeResult]:
    """Single tokens asked about at Meta: near expiry, changed lately, or brought by a webhook.

    A token that Meta does not know any more is left for the next complete pull to judge.
    """
    page = single_partition(context)
    with (
        meta_failures(context, database.get()) as attempt,
        graph_api.client_for_page(page) as client,
    ):
        report = refresh_details(
            client, database.get(), CONFIG.pages[page].page_id, most=config.most
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
