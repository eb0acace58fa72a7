"""Builds a sensor's run requests: one run per partition, none beside a run in flight.

A sensor reads and claims nothing (docs/decisions/0007-sensors-read-assets-acknowledge.md).
Pending work stays pending until an asset acknowledges it. When a tick, a run or the whole stack
dies, the next tick requests the work again. Dagster's run records say what was tried already. The
run key contains an attempt number, because Dagster never launches a key again whose run failed. Two
requests for the same attempt launch one run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from mm_pipelines.jobs import ASSETS_BY_JOB
from mm_pipelines.orchestration.priorities import priority_tags

MAX_ATTEMPTS = 5
"""After this many failed runs in a row, a partition is paused until a person materializes it or
newer work for it arrives."""

MAX_RUNS_PER_TICK = 25

EVERY_LOOP_SECONDS = 1
"""The interval of a sensor that should run in every loop of Dagster's daemon.

The daemon evaluates its sensors every 5 s and skips those whose interval has not passed. A sensor
with an interval of 5 s missed every other loop, because its tick starts a little after the loop.
"""

REQUESTED_FOR_TAG = "mm/requested_for"
_PARTITION_TAG = "dagster/partition"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_FIRST_WAIT = timedelta(seconds=30)
_UNFINISHED_RUNS_READ = 1_000
_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class PendingWork:
    """A partition of an asset that is out of date.

    Attributes:
        done_at: When the asset last did this partition's work. Earlier failures do not count.
        newest_at: When the newest event or change arrived that makes the work due. Failures before
            it lengthen the wait and do not pause the partition.
        job: The job to launch. None launches the asset alone.
        ignore_runs_before: Unfinished runs created earlier do not cover the work: they stopped
            working on it without an end that Dagster noticed.
    """

    asset: str
    partition_key: str
    done_at: datetime | None
    newest_at: datetime | None = None
    job: str | None = None
    ignore_runs_before: datetime | None = None

    @property
    def name(self) -> str:
        """How logs and skip messages name it."""
        return f"{self.asset} of {self.partition_key}"


@dataclass
class TickOutcome:
    """The runs that a tick requests, and notes about the work that it does not request."""

    requests: list[dg.RunRequest] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def result(
        self,
        context: dg.SensorEvaluationContext,
        *,
        cursor: str | None = None,
        evaluations: Sequence[dg.AssetCheckEvaluation] = (),
    ) -> dg.SensorResult:
        """The tick's result. The notes become log lines or, without requests, its skip message."""
        for note in self.notes:
            context.log.info(note)
        reason = "; ".join(self.notes) or "No work is due"
        return dg.SensorResult(
            run_requests=self.requests or None,
            skip_reason=None if self.requests else reason,
            cursor=cursor,
            asset_events=evaluations,
        )


def build_run_requests(instance: dg.DagsterInstance, due: Sequence[PendingWork]) -> TickOutcome:
    """Request the due work that no run in flight covers and that may be tried now.

    Args:
        instance: Its run records say what is in flight and what failed.
        due: The work, the longest due first.
    """
    outcome = TickOutcome()
    in_flight = _covered_by_unfinished_runs(instance) if due else {}
    for work in due:
        covered_since = in_flight.get((work.asset, work.partition_key))
        if covered_since and covered_since > (work.ignore_runs_before or _LONG_AGO):
            outcome.notes.append(f"{work.name} is in flight")
            continue
        failures = _failures(instance, work)
        if failures.since_newest >= MAX_ATTEMPTS:
            outcome.notes.append(
                f"{work.name} is paused after {failures.in_a_row} failed runs. Fix the cause shown "
                "in the last run, then re-execute that run or materialize the partition"
            )
            continue
        if datetime.now(UTC) < failures.retry_at:
            outcome.notes.append(
                f"{work.name} failed {failures.in_a_row} times; next attempt at "
                f"{failures.retry_at:%H:%M:%S} UTC"
            )
            continue
        if len(outcome.requests) == MAX_RUNS_PER_TICK:
            outcome.notes.append(
                f"more than {MAX_RUNS_PER_TICK} partitions are due; the next ticks request the rest"
            )
            break
        outcome.requests.append(_request(work, attempt=failures.in_a_row + 1))
    return outcome


def wait_after(failures: int) -> timedelta:
    """The wait after this many failures in a row: 30 s, doubled each time, at most 8 min."""
    wait: timedelta = _FIRST_WAIT * 2 ** (min(failures, MAX_ATTEMPTS) - 1)
    return wait


def last_materialized(
    instance: dg.DagsterInstance, asset: str, partition_key: str
) -> datetime | None:
    """When an asset's partition was last materialized; None before the first time."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition_key]), limit=1
    ).records
    return datetime.fromtimestamp(records[0].timestamp, UTC) if records else None


def _covered_by_unfinished_runs(
    instance: dg.DagsterInstance,
) -> dict[tuple[str, str], datetime]:
    """The assets and partitions of queued and running runs, and when the newest was created."""
    records = instance.get_run_records(
        dg.RunsFilter(statuses=list(_UNFINISHED)),
        limit=_UNFINISHED_RUNS_READ,
        order_by="create_timestamp",
        ascending=False,
    )
    covered: dict[tuple[str, str], datetime] = {}
    for record in records:
        run = record.dagster_run
        if _PARTITION_TAG in run.tags and not _was_never_launched(run):
            for asset in _assets_of(run):
                covered.setdefault((asset, run.tags[_PARTITION_TAG]), record.create_timestamp)
    return covered


def _assets_of(run: dg.DagsterRun) -> set[str]:
    if run.asset_selection:
        return {key.to_user_string() for key in run.asset_selection}
    return set(ASSETS_BY_JOB.get(run.job_name, ()))


def _was_never_launched(run: dg.DagsterRun) -> bool:
    """Whether a tick created the run and died before the launch; the same key launches it."""
    return run.status is dg.DagsterRunStatus.NOT_STARTED and REQUESTED_FOR_TAG in run.tags


def _request(work: PendingWork, attempt: int) -> dg.RunRequest:
    done_at = work.done_at.isoformat() if work.done_at else "never"
    return dg.RunRequest(
        run_key=f"{work.asset}:{work.partition_key}:{done_at}:attempt-{attempt}",
        job_name=work.job,
        asset_selection=None if work.job else [dg.AssetKey(work.asset)],
        partition_key=work.partition_key,
        tags={REQUESTED_FOR_TAG: work.asset, **priority_tags(work.asset)},
    )


@dataclass(frozen=True)
class _Failures:
    """The failed runs of a piece of work.

    Attributes:
        in_a_row: Since the work was last done.
        since_newest: Of these, those since the newest event arrived; counted up to MAX_ATTEMPTS.
        retry_at: When the next attempt may start.
    """

    in_a_row: int
    since_newest: int
    retry_at: datetime


def _failures(instance: dg.DagsterInstance, work: PendingWork) -> _Failures:
    since_done = dg.RunsFilter(
        tags={REQUESTED_FOR_TAG: work.asset, _PARTITION_TAG: work.partition_key},
        statuses=list(_FAILED),
        created_after=work.done_at.astimezone(UTC) if work.done_at else None,
    )
    newest = instance.get_run_records(
        since_done, limit=MAX_ATTEMPTS, order_by="create_timestamp", ascending=False
    )
    now = datetime.now(UTC)
    if not newest:
        return _Failures(in_a_row=0, since_newest=0, retry_at=now)
    in_a_row = len(newest)
    if in_a_row == MAX_ATTEMPTS:
        in_a_row = instance.get_runs_count(since_done)
    # Meta's clock may be ahead of ours. A time in the future must not hide the failures until then.
    newest_at = work.newest_at if work.newest_at and work.newest_at <= now else None
    return _Failures(
        in_a_row=in_a_row,
        since_newest=sum(newest_at is None or run.create_timestamp > newest_at for run in newest),
        retry_at=max(run.update_timestamp for run in newest) + wait_after(in_a_row),
    )
