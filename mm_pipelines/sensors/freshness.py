"""Reports audiences and Pages whose data are older than mm.yaml allows."""

import json

import dagster as dg

from mm_pipelines import alerts
from mm_pipelines.alerts import Alert
from mm_pipelines.assets.freshness import ASSET_BY_KIND, CHECK, describe, hours, read_freshness
from mm_pipelines.health import Freshness
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.alerts import DEFAULT_UI_URL, UI_VARIABLE, URL_VARIABLE


@dg.sensor(
    name=prefixed("freshness_sensor"),
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    # It requests no runs, and Dagster wants a target of every sensor.
    target=select("custom_audience"),
    description=(
        "Reports the check `fresh` of each audience and Page when its outcome changes: whether a "
        "list was uploaded, or tokens were pulled, within fresh_within of mm.yaml. Sends an alert "
        "for each that became stale."
    ),
)
@skip_on_passing_fault
def freshness_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Report the outcomes that changed since the last tick."""
    reported: dict[str, bool] = json.loads(context.cursor or "{}")
    found = {f"{each.kind}:{each.key}": each for each in read_freshness(mm_database.get())}
    changed = [each for name, each in found.items() if reported.get(name) is not each.is_stale]
    url = dg.EnvVar(URL_VARIABLE).get_value()
    stale = [_alert(each) for each in changed if each.is_stale]
    if url and stale:
        # A failed alert fails the tick, so the next one reports the same changes.
        alerts.send(url, alerts.group(stale))
    return dg.SensorResult(
        skip_reason=f"{len(changed)} of {len(found)} outcomes changed",
        cursor=json.dumps({name: each.is_stale for name, each in found.items()}),
        asset_events=[_evaluation(each) for each in changed],
    )


def _evaluation(freshness: Freshness) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=ASSET_BY_KIND[freshness.kind],
        check_name=CHECK,
        partition=freshness.key,
        passed=not freshness.is_stale,
        severity=dg.AssetCheckSeverity.WARN,
        description=describe(freshness),
        metadata=hours(freshness),
    )


def _alert(freshness: Freshness) -> Alert:
    asset = ASSET_BY_KIND[freshness.kind]
    base = (dg.EnvVar(UI_VARIABLE).get_value() or DEFAULT_UI_URL).rstrip("/")
    return Alert(
        subject=f"{asset.to_user_string()}:{CHECK}",
        message=describe(freshness),
        partitions=(freshness.key,),
        run_url=f"{base}/assets/{'/'.join(asset.path)}",
    )
