"""The tokens that may be messaged now, as a file for the sender."""

from datetime import timedelta
from typing import Final

import dagster as dg
from pydantic import Field

from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.storage import without_credentials
from mm_pipelines.tokens import sender_file
from mm_pipelines.tokens.export import FileFormat, publish_sendable
from mm_pipelines.warehouse.database import Database

PUBLISHED_WITHIN: Final = timedelta(minutes=5)
"""How long an opt-out may be missing from the sender's file."""

_CHECK: Final = "opt_outs_published"

_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("page_id", "text", "The Page's ID at Meta"),
        dg.TableColumn("token", "text", "The subscription token to send to"),
        dg.TableColumn("recipient_id", "text", "The Page-scoped ID, if Meta reports it"),
        dg.TableColumn("topic_title", "text", "The title that the person agreed to"),
        dg.TableColumn("timezone", "text", "The person's time zone, if known"),
        dg.TableColumn("created_at", "timestamptz", "When the token was created, if known"),
        dg.TableColumn("expires_at", "timestamptz", "When the token expires; null: never"),
        dg.TableColumn("custom_audience_ids", "text[]", "The Custom Audiences that matched"),
        dg.TableColumn("source", "text", "How the person subscribed"),
    ]
)


class SendableTokensConfig(dg.Config):
    """The configuration of one run."""

    file_format: FileFormat = Field(
        default=FileFormat.PARQUET, description="PARQUET or CSV, with the same rows."
    )


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE,
    deps=[subscription_tokens],
    group_name="tokens",
    owners=["team:audience"],
    kinds={"polars", "parquet"},
    metadata={"dagster/column_schema": _COLUMNS},
)
@translate_errors
def sendable_tokens(
    context: dg.AssetExecutionContext,
    config: SendableTokensConfig,
    mm_database: DatabaseResource,
    mm_storage: StorageResource,
) -> dg.MaterializeResult:
    """Publishes the Page's sendable tokens, at most one per person, as a file in a stable order.

    `sendable_tokens/{page}/latest.json` in the storage names the newest file, its digest, and until
    when to use it. It is replaced after the file is complete.
    """
    page = single_partition(context)
    manifest = publish_sendable(
        mm_database.get(), mm_storage.get(), page, CONFIG.pages[page].page_id, config.file_format
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": manifest.rows,
            "file": dg.MetadataValue.path(without_credentials(mm_storage.get().url(manifest.path))),
            "sha256": manifest.sha256,
            "format": manifest.format.value,
            "valid_until": manifest.valid_until,
        }
    )


@dg.asset_check(
    asset=sendable_tokens,
    name=_CHECK,
    description="No Page's file lacks an opt-in or opt-out of more than five minutes ago.",
)
def opt_outs_published(mm_database: DatabaseResource) -> dg.AssetCheckResult:
    """Compare the newest file of every Page with the recorded opt-ins and opt-outs."""
    evaluation = opt_outs_are_published(mm_database.get())
    return dg.AssetCheckResult(
        passed=evaluation.passed,
        severity=evaluation.severity,
        description=evaluation.description,
        metadata=evaluation.metadata,
    )


def opt_outs_are_published(database: Database) -> dg.AssetCheckEvaluation:
    """The same comparison as an event, which a sensor reports without a run."""
    keys = {page.page_id: key for key, page in CONFIG.pages.items()}
    with database.transaction() as connection:
        behind = sender_file.behind(connection, list(keys), grace=PUBLISHED_WITHIN)
    late = ", ".join(
        f"{keys[file.page_id]} (since {file.since:%Y-%m-%d %H:%M} UTC)" for file in behind
    )
    return dg.AssetCheckEvaluation(
        asset_key=sendable_tokens.key,
        check_name=_CHECK,
        passed=not behind,
        severity=dg.AssetCheckSeverity.ERROR,
        description=(
            f"The files of these Pages lack opt-outs: {late}. Do not send from them. See the last "
            "run of sendable_tokens and the ticks of sender_file_sensor."
            if behind
            else "Every Page's file contains the opt-outs."
        ),
        metadata={"pages_behind": len(behind)},
    )
