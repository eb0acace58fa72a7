"""The jobs. Each one holds assets of a single partition set, or does housekeeping."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pkgutil import iter_modules
from typing import Final

import dagster as dg

from mm_pipelines import assets
from mm_pipelines.consent import member_digests
from mm_pipelines.consent.erasure import receipts
from mm_pipelines.consent.erasure.erase import note_removed_files
from mm_pipelines.consent.messenger_events import CONSENT_FIELDS, MESSAGE_FIELDS, apply_messages
from mm_pipelines.naming import asset_key, prefixed, select
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.priorities import SHARED_SLOT
from mm_pipelines.orchestration.run_pruning import OurRuns, location_of, prune_runs, purge_ticks
from mm_pipelines.partitions import CONFIG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.retention import RetentionRules, remove_expired
from mm_pipelines.suppression.keys import check_keys
from mm_pipelines.webhooks.webhook_event import UPLOAD_STATUS

ASSETS_BY_JOB: Final[Mapping[str, tuple[str, ...]]] = {
    "daily_upload": ("customer_list", "hashed_payload", "audience_upload", "match_status"),
    "token_refresh": ("subscription_tokens", "token_details", "sendable_tokens"),
    "daily_report": ("token_snapshot", "growth_report"),
}
"""The names of the assets that each asset job materializes."""


daily_upload = dg.define_asset_job(
    prefixed("daily_upload"),
    selection=select(*ASSETS_BY_JOB["daily_upload"]),
    executor_def=dg.in_process_executor,
    tags=SHARED_SLOT,
    description=(
        "Validates, hashes and uploads one audience's list of one day, and computes its match "
        "status."
    ),
)

token_refresh = dg.define_asset_job(
    prefixed("token_refresh"),
    selection=select(*ASSETS_BY_JOB["token_refresh"]),
    executor_def=dg.in_process_executor,
    tags=SHARED_SLOT,
    description=(
        "Pulls one Page's subscription tokens, updates the details of single tokens, and publishes "
        "the sender's file."
    ),
)

daily_report = dg.define_asset_job(
    prefixed("daily_report"),
    selection=select(*ASSETS_BY_JOB["daily_report"]),
    executor_def=dg.in_process_executor,
    tags=SHARED_SLOT,
    description="Counts one Page's tokens and computes its growth report for one day.",
)

# Each field is acknowledged by one asset: match_status, messaging_optins, optin_requests. For
# Pages without `optin`, retention acknowledges messages.
ACKNOWLEDGED_FIELDS = (UPLOAD_STATUS, *CONSENT_FIELDS, *MESSAGE_FIELDS)

_SECONDS_TO_PRUNE: Final = 600.0


@dg.op(name=prefixed("remove_expired_data"), out=dg.Out(dg.Nothing, is_required=False))
@translate_errors
def remove_expired_data(
    context: dg.OpExecutionContext,
    mm_database: DatabaseResource,
    mm_storage: StorageResource,
    mm_suppression: SuppressionResource,
) -> None:
    """Remove what is older than settings.retention_days and settings.payload_days."""
    now = datetime.now(UTC)
    with mm_database.get().transaction() as connection:
        check_keys(connection, mm_suppression.get())
        files_of_erased_people = receipts.open_files(connection)
    for page in CONFIG.pages.values():
        if page.optin is None:
            apply_messages(mm_database.get(), page.page_id, context.run_id, mm_suppression.get())
    # The former files of digests contain removed people, also where no opt-out calls for a search.
    member_digests.refresh(mm_database.get(), mm_storage.get(), mm_suppression.get())
    rules = RetentionRules(
        rows_before=now - timedelta(days=CONFIG.settings.retention_days),
        files_before=now - timedelta(days=CONFIG.settings.payload_days),
        acknowledged_fields=ACKNOWLEDGED_FIELDS,
        page_ids=[page.page_id for page in CONFIG.pages.values()],
        files_not_kept=files_of_erased_people,
    )
    removed = remove_expired(mm_database.get(), mm_storage.get(), rules)
    note_removed_files(mm_database.get(), mm_storage.get())
    rows = ", ".join(f"{count:,} of mm.{table}" for table, count in removed.rows.items() if count)
    context.log.info(f"Removed {removed.files:,} files; rows: {rows or 'none'}")


@dg.op(name=prefixed("prune_dagster_storage"), out=dg.Out(dg.Nothing, is_required=False))
@translate_errors
def prune_dagster_storage(context: dg.OpExecutionContext, mm_database: DatabaseResource) -> None:
    """Delete our runs, their logs and ticks that are older than settings.run_retention_days."""
    before = datetime.now(UTC) - timedelta(days=CONFIG.settings.run_retention_days)
    location = location_of(context.run)
    ours = OurRuns(
        location=location,
        jobs={prefixed(name) for name in (*ASSETS_BY_JOB, "retention")},
        # One module for each asset, of the same name.
        assets={asset_key(module.name) for module in iter_modules(assets.__path__)},
    )
    pruned = prune_runs(
        context.instance, mm_database.get(), ours, before, seconds=_SECONDS_TO_PRUNE
    )
    purge_ticks(context.instance, location, before)
    context.log.info(f"Deleted {pruned.deleted:,} of {pruned.examined:,} runs that are old enough")


@dg.job(
    name=prefixed("retention"),
    executor_def=dg.in_process_executor,
    description=(
        "Removes files of hashed people after settings.payload_days, and events and people's "
        "history after settings.retention_days, unless something still needs them; deletes our "
        "runs and ticks in Dagster's storage after settings.run_retention_days."
    ),
)
def retention() -> None:
    """Remove expired data that nothing depends on."""
    remove_expired_data()
    prune_dagster_storage()
