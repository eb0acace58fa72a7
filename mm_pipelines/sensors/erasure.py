"""Requests the asset that erases people."""

from datetime import UTC, datetime

import dagster as dg

from mm_pipelines.consent.erasure import receipts
from mm_pipelines.naming import asset_key, prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.run_requests import PendingWork, build_run_requests


@dg.sensor(
    name=prefixed("erasure_sensor"),
    asset_selection=select("erasures"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Requests erasures for new rows of mm.erasure_request, and when Meta answered a request of "
        "an erasure."
    ),
)
@skip_on_passing_fault
def erasure_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request one run for everything that is due."""
    with mm_database.get().transaction() as connection:
        due_since = receipts.due_since(connection)
    newest = context.instance.fetch_materializations(asset_key("erasures"), limit=1).records
    done_at = datetime.fromtimestamp(newest[0].timestamp, UTC) if newest else None
    work = [PendingWork("erasures", "", done_at, due_since)] if due_since else []
    return build_run_requests(context.instance, mm_database.get(), work).result(context)
