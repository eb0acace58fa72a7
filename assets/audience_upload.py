"""Uploads a day's people to Meta."""

import time
from collections.abc import Iterator
from functools import partial

import dagster as dg
from pydantic import Field

from mm_pipelines.assets.custom_audience import (
    audience_metadata,
    audience_summary,
    custom_audience,
)
from mm_pipelines.delivery import ledger
from mm_pipelines.delivery.preview import UploadPreview, preview
from mm_pipelines.delivery.upload import UploadSummary, upload
from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.checks import partitioned_check
from mm_pipelines.orchestration.delivery_plans import (
    delivery_context,
    opt_outs,
    sending,
    upload_plan,
)
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.long_waits import defer_long_waits, deferred_result
from mm_pipelines.partitions import AUDIENCE_BY_DAY, AudienceDay
from mm_pipelines.payload import quarantine
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.suppression.suppression_list import match_suppressed
from mm_pipelines.warehouse.database import Database

LEDGER_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("audience", "text"),
        dg.TableColumn("day", "date"),
        dg.TableColumn("session_id", "bigint", description="Ours, never used twice"),
        dg.TableColumn("batch_seq", "integer", description="From 1 within the session"),
        dg.TableColumn("row_count", "integer", description="Rows on the wire"),
        dg.TableColumn(
            "new_people", "integer", description="Rows that add a member; null: all of them"
        ),
        dg.TableColumn("content_sha256", "text", description="Digest of the batch's rows"),
        dg.TableColumn(
            "status",
            "text",
            description="sent, acknowledged, superseded, abandoned, refused, rejected",
        ),
        dg.TableColumn("num_received", "bigint", description="Meta's count, per session"),
        dg.TableColumn("num_invalid_entries", "bigint", description="Meta's count"),
        dg.TableColumn("acknowledged_at", "timestamptz"),
    ]
)

_ROWS_SHOWN = 100


class UploadConfig(dg.Config):
    """Options of one run."""

    dry_run: bool = Field(
        default=False, description="Count what would be sent; send and change nothing."
    )
    accept_removals: bool = Field(
        default=False,
        description="Mirror mode: remove people even if they are more than removal_share allows.",
    )


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=AUDIENCE_BY_DAY,
    deps=[asset_key("hashed_payload"), custom_audience],
    group_name="delivery",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    # A dry run materializes nothing.
    output_required=False,
    check_specs=[
        partitioned_check(
            "valid_at_meta",
            asset="audience_upload",
            partitions_def=AUDIENCE_BY_DAY,
            description="Meta could decode every row of the partition that was sent so far, and "
            "received subscribers.",
        ),
        partitioned_check(
            "delivered_in_full",
            asset="audience_upload",
            partitions_def=AUDIENCE_BY_DAY,
            description="No part of the partition's upload is deferred.",
        ),
    ],
    metadata={"dagster/table_name": "mm.upload_batch", "dagster/column_schema": LEDGER_COLUMNS},
)
@translate_errors
def audience_upload(
    context: dg.AssetExecutionContext,
    config: UploadConfig,
    mm_database: DatabaseResource,
    mm_storage: StorageResource,
    mm_graph_api: GraphApiResource,
    mm_suppression: SuppressionResource,
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Uploads the day's new people to the Custom Audience. No acknowledged batch is sent again.

    New people are written to an immutable file before the upload starts. Each batch is a slice of
    that file, recorded in a ledger, so a rerun sends only what was not acknowledged. People who
    opted out since the list was hashed are excluded. Rows that Meta refuses are isolated.
    """
    partition = AudienceDay.of(context)
    plan = upload_plan(partition, accept_removals=config.accept_removals)
    suppressed_among = partial(match_suppressed, mm_database.get(), mm_suppression.get())
    if config.dry_run:
        planned = preview(
            mm_database.get(),
            mm_storage.get(),
            plan,
            suppressed_among,
            minimum_upload=sending().minimum_upload,
        )
        context.log_event(_as_observation(context, planned))
        yield _valid_at_meta(mm_database.get(), partition)
        yield _delivered_in_full(mm_database.get(), partition)
        return
    throttle = mm_graph_api.throttle_for_audience(partition.audience, mm_database.get())
    began_at = time.monotonic()
    with (
        defer_long_waits(
            context, mm_database.get(), lambda: _people(mm_database.get(), partition)
        ) as attempt,
        mm_graph_api.client_for_audience(partition.audience, throttle) as client,
    ):
        delivery = delivery_context(mm_database, mm_storage, client, context.log.info)
        summary = upload(
            delivery, plan, suppressed_among, [opt_outs(mm_database, mm_storage, mm_suppression)]
        )
    if attempt.deferral is not None:
        yield deferred_result(
            attempt.deferral,
            {"people_in_audience": _people(mm_database.get(), partition)},
            _checks(mm_database.get(), partition),
        )
        return
    seconds = time.monotonic() - began_at
    if summary.created:
        context.log_event(
            dg.AssetMaterialization(
                custom_audience.key,
                partition=partition.audience,
                metadata={
                    **audience_metadata(summary.custom_audience, created=True),
                    "summary": audience_summary(mm_database.get(), partition.audience),
                },
            )
        )
    yield dg.MaterializeResult(
        metadata={
            **_metadata(summary, seconds),
            **_answers_of_meta(mm_database.get(), partition),
            "seconds_waited_for_throttle": round(throttle.waiting.seconds_waited, 1),
            "highest_usage_percent": throttle.waiting.highest_usage_percent,
        },
        check_results=_checks(mm_database.get(), partition),
    )


def _metadata(summary: UploadSummary, seconds: float) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(summary.rows),
        "custom_audience_id": dg.MetadataValue.text(summary.custom_audience.custom_audience_id),
        "new_people": dg.MetadataValue.int(summary.new_people),
        "left_out_people": dg.MetadataValue.int(summary.left_out),
        "removed_people": dg.MetadataValue.int(summary.removed_people),
        "replaced_people": dg.MetadataValue.int(summary.replaced_people),
        "members_sent_again": dg.MetadataValue.int(summary.members_sent_again),
        "batches": dg.MetadataValue.int(summary.batches),
        "invalid_entries": dg.MetadataValue.int(summary.invalid_entries),
        "refused_rows": dg.MetadataValue.int(summary.refused_rows),
        "people_in_audience": dg.MetadataValue.int(summary.people_in_audience),
        "seconds": dg.MetadataValue.float(round(seconds, 2)),
        "rows_per_second": dg.MetadataValue.float(round(summary.rows / max(seconds, 0.001), 1)),
    }
    if summary.former_members:
        metadata["former_members"] = dg.MetadataValue.int(summary.former_members)
    if summary.top_up:
        metadata["top_up"] = dg.MetadataValue.text(summary.top_up)
    if summary.skipped:
        metadata["nothing_to_send"] = dg.MetadataValue.text(summary.skipped)
    return metadata


def _answers_of_meta(database: Database, partition: AudienceDay) -> dict[str, dg.MetadataValue]:
    """What Meta answered about the partition's rows so far, by row number and without values."""
    with database.transaction() as connection:
        subscribers = ledger.delivered(connection, partition.audience, partition.day).subscribers
        rejected = quarantine.find(
            connection,
            partition.audience,
            partition.day,
            _ROWS_SHOWN,
            stage="audience_upload",
        )
    metadata: dict[str, dg.MetadataValue] = {}
    if subscribers is not None:
        metadata["subscribers_received"] = dg.MetadataValue.int(subscribers)
    if rejected:
        metadata["rows_rejected_at_meta"] = dg.MetadataValue.table(
            [
                dg.TableRecord({"row": row.row_number, "reasons": ", ".join(row.reasons)})
                for row in rejected
            ],
            dg.TableSchema([dg.TableColumn("row", "bigint"), dg.TableColumn("reasons", "text")]),
        )
    return metadata


def _people(database: Database, partition: AudienceDay) -> int:
    with database.transaction() as connection:
        return ledger.people_acknowledged(connection, partition.audience)


def _checks(database: Database, partition: AudienceDay) -> list[dg.AssetCheckResult]:
    return [_valid_at_meta(database, partition), _delivered_in_full(database, partition)]


def _delivered_in_full(database: Database, partition: AudienceDay) -> dg.AssetCheckResult:
    with database.transaction() as connection:
        deferral = deferrals.find(connection, "audience_upload", partition.key)
    return dg.AssetCheckResult(
        check_name="delivered_in_full",
        passed=deferral is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"The rest of the upload is deferred until {deferral.due_at:%Y-%m-%d %H:%M:%S} UTC "
            f"({deferral.reason}). The deferred work sensor then requests it."
            if deferral
            else "No part of the upload is deferred."
        ),
        metadata={"attempts_without_progress": deferral.attempts if deferral else 0},
    )


def _valid_at_meta(database: Database, partition: AudienceDay) -> dg.AssetCheckResult:
    """Judges by the ledger, not by the run: a run that sends nothing must not hide a fault."""
    with database.transaction() as connection:
        sent = ledger.delivered(connection, partition.audience, partition.day)
    faults = []
    if sent.invalid_entries:
        faults.append(
            f"Meta could not decode {sent.invalid_entries:,} of {sent.rows:,} rows; those that it "
            "names are in mm.rejected_row with stage audience_upload. Check these rows in the list."
        )
    if sent.rows and sent.subscribers == 0:
        faults.append(
            f"Meta received {sent.rows:,} rows and no subscriber. Check that the Page may use "
            "Marketing Messages and that the audience belongs to this Page."
        )
    counts: dict[str, int] = {"invalid_entries": sent.invalid_entries, "rows": sent.rows}
    if sent.subscribers is not None:
        counts["subscribers_received"] = sent.subscribers
    return dg.AssetCheckResult(
        check_name="valid_at_meta",
        passed=not faults,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(faults) or "Meta could decode every row.",
        metadata=counts,
    )


def _as_observation(
    context: dg.AssetExecutionContext, planned: UploadPreview
) -> dg.AssetObservation:
    context.log.info(
        f"Dry run: would send {planned.unfinished_rows:,} left by an earlier run, add "
        f"{planned.new_people:,} and remove {planned.removed_people:,}; "
        f"{planned.people_in_audience:,} people are in the audience. Nothing was sent"
    )
    return dg.AssetObservation(
        context.asset_key,
        partition=context.partition_key,
        metadata={
            "dry_run": True,
            "custom_audience_exists": planned.exists,
            "would_finish_rows": planned.unfinished_rows,
            "would_add_people": planned.new_people,
            "would_remove_people": planned.removed_people,
            "would_send_members_again": planned.members_sent_again,
            "people_in_audience": planned.people_in_audience,
            "nothing_to_send": planned.skipped or "",
        },
    )
