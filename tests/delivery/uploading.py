"""An upload in a process of its own, to be killed at any instant."""

import time
from dataclasses import replace

from mm_pipelines.delivery.context import DeliveryContext, Sending
from mm_pipelines.delivery.upload import upload
from mm_pipelines.delivery.upload_plan import UploadPlan
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import ThrottledError
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.shared_throttle import SharedThrottle
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database, LockTakenError
from tests.delivery.sandbox_delivery import DAY, SPEC, TOKEN


def silent(line: str) -> None:
    """Say nothing."""


def run(
    database_url: str,
    storage_url: str,
    graph_url: str,
    audience: str,
    batch_size: int,
    side_by_side: int,
    account: str = SPEC.ad_account_id,
) -> None:
    """Upload the audience's payload to its end, waiting for a dead run's lock to be freed."""
    database = Database(database_url)
    spec = replace(SPEC, audience=audience, name=audience, ad_account_id=account)
    plan = UploadPlan(spec, DAY)
    client = GraphApiClient(
        TOKEN,
        base_url=graph_url,
        throttle=SharedThrottle(database, f"ad_account:{account}", TOKEN),
        retries=RetryPolicy(first_wait=0.05),
    )
    context = DeliveryContext(
        database, Storage(storage_url), client, silent, Sending(batch_size, side_by_side)
    )
    with client:
        while True:
            try:
                upload(context, plan)
            except LockTakenError:
                continue
            except ThrottledError as throttled:
                # As the asset does, by RetryRequested.
                time.sleep(throttled.wait_seconds)
                continue
            break
    database.dispose()
