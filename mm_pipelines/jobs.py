"""Jobs: each holds the assets of one partition set (design 4), or keeps the house."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from mm_pipelines.assets.audience_upload import audience_upload
from mm_pipelines.assets.customer_list import customer_list
from mm_pipelines.assets.growth_report import growth_report
from mm_pipelines.assets.hashed_payload import hashed_payload
from mm_pipelines.assets.match_status import match_status
from mm_pipelines.assets.sendable_tokens import sendable_tokens
from mm_pipelines.assets.subscription_tokens import subscription_tokens
from mm_pipelines.assets.token_details import token_details
from mm_pipelines.assets.token_snapshot import token_snapshot
from mm_pipelines.consent.messenger_events import MESSAGE_FIELDS, OPTIN_FIELDS
from mm_pipelines.partitions import CONFIG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.retention import sweep
from mm_pipelines.webhooks.webhook_event import UPLOAD_STATUS

daily_upload = dg.define_asset_job(
    "daily_upload",
    selection=dg.AssetSelection.assets(
        customer_list, hashed_payload, audience_upload, match_status
    ),
    description="One audience's list of one day: validated, hashed, delivered, its status noted.",
)

token_refresh = dg.define_asset_job(
    "token_refresh",
    selection=dg.AssetSelection.assets(subscription_tokens, token_details, sendable_tokens),
    description="One Page's tokens pulled, looked at singly, and written for the sender.",
)

daily_report = dg.define_asset_job(
    "daily_report",
    selection=dg.AssetSelection.assets(token_snapshot, growth_report),
    description="One Page's day in numbers: its tokens and its growth.",
)

# Each by exactly one asset: match_status, messaging_optins, conversations.
ACKNOWLEDGED_FIELDS = (UPLOAD_STATUS, *OPTIN_FIELDS, *MESSAGE_FIELDS)


@dg.op(out=None)
def remove_what_is_old(
    context: dg.OpExecutionContext, database: DatabaseResource, storage: StorageResource
) -> None:
    """Remove hashed files and processed events that are older than settings.retention_days."""
    before = datetime.now(UTC) - timedelta(days=CONFIG.settings.retention_days)
    swept = sweep(
        database.get(), storage.get(), before=before, acknowledged_fields=ACKNOWLEDGED_FIELDS
    )
    context.log.info(f"{swept.files:,} files and {swept.events:,} events removed")


@dg.job(description="Hashed files and processed events older than settings.retention_days go.")
def retention() -> None:
    """One op: what nothing stands on any more is removed."""
    remove_what_is_old()
