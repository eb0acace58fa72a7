"""Sends alerts about failed runs and failed checks to ``MM_ALERT_WEBHOOK_URL``."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import dagster as dg

from mm_pipelines.alerts import Alert, group, send
from mm_pipelines.asset_graph import is_ours
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault

URL_VARIABLE = "MM_ALERT_WEBHOOK_URL"
UI_VARIABLE = "MM_DAGSTER_UI_URL"
DEFAULT_UI_URL = "http://127.0.0.1:3000"
RUNS_PER_TICK = 100
QUIET_FOR = timedelta(hours=1)
"""The same failure is sent once in this time. The next alert says how often it happened."""

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)


@dg.sensor(
    name=prefixed("alert_sensor"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    # It requests no runs, and Dagster wants a target of every sensor.
    target=select("customer_list"),
    description=(
        "Sends alerts about failed runs and failed checks to MM_ALERT_WEBHOOK_URL: what failed, "
        "the partitions, the next step and a link. Does nothing without the variable."
    ),
)
@skip_on_passing_fault
def alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Send the alerts of the runs that ended since the last tick."""
    now = datetime.now(UTC)
    url = dg.EnvVar(URL_VARIABLE).get_value()
    state: dict[str, Any] = (
        json.loads(context.cursor) if context.cursor else {"after": now.isoformat()}
    )
    if not url:
        # From the first tick with the variable on: a year of old failures is no news.
        cursor = json.dumps({"after": now.isoformat()})
        return dg.SensorResult(skip_reason=f"{URL_VARIABLE} is not set", cursor=cursor)
    records = context.instance.get_run_records(
        dg.RunsFilter(statuses=list(_ENDED), updated_after=datetime.fromisoformat(state["after"])),
        limit=RUNS_PER_TICK,
        order_by="update_timestamp",
        ascending=True,
    )
    found = group([alert for record in records for alert in _alerts(context.instance, record)])
    held = _held(state.get("sent", {}), now)
    due = [_with_held(alert, held) for alert in found if not _is_quiet(alert, held, now)]
    if due:
        send(url, due)
    cursor = json.dumps(
        {
            "after": records[-1].update_timestamp.isoformat() if records else state["after"],
            "sent": _remember(held, found, due, now),
        }
    )
    return dg.SensorResult(skip_reason=f"{len(due)} alerts sent", cursor=cursor)


def _alerts(instance: dg.DagsterInstance, record: dg.RunRecord) -> Iterator[Alert]:
    run = record.dagster_run
    if not is_ours(run):
        return
    partition = run.tags.get("dagster/partition")
    partitions = (partition,) if partition else ()
    base = (dg.EnvVar(UI_VARIABLE).get_value() or DEFAULT_UI_URL).rstrip("/")
    link = f"{base}/runs/{run.run_id}"
    if run.status == dg.DagsterRunStatus.FAILURE:
        yield from _failures(instance, run, partitions, link)
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        evaluation = entry.get_dagster_event().asset_check_evaluation_data
        if not evaluation.passed:
            subject = f"{evaluation.asset_key.to_user_string()}:{evaluation.check_name}"
            message = evaluation.description or "The check failed."
            yield Alert(subject, message, partitions, link)


def _failures(
    instance: dg.DagsterInstance, run: dg.DagsterRun, partitions: tuple[str, ...], link: str
) -> Iterator[Alert]:
    steps = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    for entry in steps:
        event = entry.get_dagster_event()
        details = event.step_failure_data
        if details.user_failure_data and details.user_failure_data.description:
            message = details.user_failure_data.description
        else:
            # The text of a foreign exception may quote a row; its class does not.
            error = details.error
            # Dagster wraps what the asset raised.
            cause = error.cause or error if error else None
            message = (
                f"{cause.cls_name if cause else 'Unknown error'}. Open the run for the details."
            )
        yield Alert(event.step_key or run.job_name, message, partitions, link)
    if not steps:
        yield Alert(
            run.job_name,
            "The run ended without a failed step: its process is gone. Our sensors request the "
            "work again.",
            partitions,
            link,
        )


def _key(alert: Alert) -> str:
    return sha256(f"{alert.subject}\n{alert.message}".encode()).hexdigest()[:16]


def _held(sent: dict[str, list[object]], now: datetime) -> dict[str, tuple[datetime, int]]:
    """The alerts of the last day: when each was sent, and how often it happened since."""
    known = {
        key: (datetime.fromisoformat(str(at)), int(str(count))) for key, (at, count) in sent.items()
    }
    return {key: value for key, value in known.items() if value[0] > now - timedelta(days=1)}


def _is_quiet(alert: Alert, held: dict[str, tuple[datetime, int]], now: datetime) -> bool:
    return _key(alert) in held and held[_key(alert)][0] > now - QUIET_FOR


def _with_held(alert: Alert, held: dict[str, tuple[datetime, int]]) -> Alert:
    """Add the occurrences that were held back since the alert was last sent."""
    _, before = held.get(_key(alert), (None, 0))
    return replace(alert, occurrences=alert.occurrences + before)


def _remember(
    held: dict[str, tuple[datetime, int]], found: list[Alert], due: list[Alert], now: datetime
) -> dict[str, tuple[str, int]]:
    counts = {key: (at.isoformat(), count) for key, (at, count) in held.items()}
    for alert in found:
        at, count = counts.get(_key(alert), (now.isoformat(), 0))
        counts[_key(alert)] = (at, count + alert.occurrences)
    return counts | {_key(alert): (now.isoformat(), 0) for alert in due}
