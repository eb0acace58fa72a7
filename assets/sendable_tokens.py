"""The tokens that may be messaged now, as a file for whatever sends."""

import dagster as dg
from pydantic import Field

from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.storage import without_credentials
from mm_pipelines.tokens.export import FileFormat, publish_sendable

_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("page_id", "text", "the Page's id at Meta"),
        dg.TableColumn("token", "text", "the subscription token to send by"),
        dg.TableColumn("recipient_id", "text", "the Page-scoped ID, where Meta tells it"),
        dg.TableColumn("topic_title", "text", "the title that the person agreed to"),
        dg.TableColumn("timezone", "text", "the person's, where told"),
        dg.TableColumn("created_at", "timestamptz", "when the token was made, where told"),
        dg.TableColumn("expires_at", "timestamptz", "null: never"),
        dg.TableColumn("custom_audience_ids", "text[]", "the Custom Audiences that matched"),
        dg.TableColumn("source", "text", "how the person came"),
    ]
)


class SendableTokensConfig(dg.Config):
    """What to write."""

    file_format: FileFormat = Field(
        default=FileFormat.PARQUET, description="PARQUET or CSV; the rows are the same"
    )


@dg.asset(
    partitions_def=PAGE,
    deps=[subscription_tokens],
    group_name="tokens",
    owners=["team:audience"],
    kinds={"polars", "parquet"},
    metadata={"dagster/column_schema": _COLUMNS},
)
def sendable_tokens(
    context: dg.AssetExecutionContext,
    config: SendableTokensConfig,
    database: DatabaseResource,
    storage: StorageResource,
) -> dg.MaterializeResult:
    """The Page's sendable tokens, at most one per person, as a file in a stable order.

    `sendable_tokens/{page}/latest.json` in the storage names the newest file and its digest; it is
    replaced when the file is whole.
    """
    page = single_partition(context)
    manifest = publish_sendable(
        database.get(),
        storage.get(),
        page,
        CONFIG.pages[page].page_id,
        config.file_format,
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": manifest.rows,
            "file": dg.MetadataValue.path(without_credentials(storage.get().url(manifest.path))),
            "sha256": manifest.sha256,
            "format": manifest.format.value,
        }
    )
