"""Builds a sensor's run requests: one run per partition, none beside a run in flight.

A sensor reads and claims nothing (docs/decisions/0007-sensors-read-assets-acknowledge.md).
Pending work stays pending until an asset acknowledges it. When a tick, a run or the whole stack
dies, the next tick requests the work again. Dagster's run records say what was tried already. The
run key contains an attempt number, because Dagster never launches a key again whose run failed. Two
requests for the same attempt launch one run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from mm_pipelines.naming import asset_key, prefixed
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.deferrals import Deferral
from mm_pipelines.orchestration.priorities import priority_tags
from mm_pipelines.sensors.run_records import REQUESTED_FOR_TAG, Work, failed_runs, in_flight
from mm_pipelines.warehouse.database import Database

MAX_ATTEMPTS = 5
"""After this many failed runs in a row, a partition is paused until a person materializes it or
newer work for it arrives."""

MAX_RUNS_PER_TICK = 25

EVERY_LOOP_SECONDS = 1
"""The interval of a sensor that should run in every loop of Dagster's daemon.

The daemon evaluates its sensors every 5 s and skips those whose interval has not passed. A sensor
with an interval of 5 s missed every other loop, because its tick starts a little after the loop.
"""

_FIRST_WAIT = timedelta(seconds=30)


@dataclass(frozen=True)
class PendingWork:
    """A partition of an asset that is out of date.

    Attributes:
        asset: The asset's name.
        partition_key: Empty for an asset without partitions.
        done_at: When the asset last did this partition's work. Earlier failures do not count.
        newest_at: When the newest event or change arrived that makes the work due. Failures before
            it lengthen the wait and do not pause the partition.
        job: The job to launch. None launches the asset alone.
        urgent_since: When the newest part of the work arrived that need not wait for a deferral
            recorded before it.
        lock: The lock that only one run can hold: one piece of work is requested at a time.
        priority: The run's priority, if it is not that of the asset's other runs.
    """

    asset: str
    partition_key: str
    done_at: datetime | None
    newest_at: datetime | None = None
    job: str | None = None
    urgent_since: datetime | None = None
    lock: str | None = None
    priority: int | None = None

    @property
    def work(self) -> Work:
        """What the run records are searched for."""
        return self.asset, self.partition_key

    @property
    def name(self) -> str:
        """How logs and skip messages name it."""
        return f"{self.asset} of {self.partition_key}" if self.partition_key else self.asset

    def waits_for(self, deferral: Deferral) -> bool:
        """Whether only the deferred work sensor requests it."""
        return self.urgent_since is None or self.urgent_since <= deferral.deferred_at


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


def build_run_requests(
    instance: dg.DagsterInstance, database: Database, due: Sequence[PendingWork]
) -> TickOutcome:
    """Request the due work that is neither in flight nor deferred, and that may be tried now.

    Args:
        instance: Its run records say what is in flight and what failed.
        database: Holds the deferrals.
        due: The work, the longest due first.
    """
    with database.transaction() as connection:
        deferred = {(d.asset, d.partition_key): d for d in deferrals.pending(connection)}
    outcome = TickOutcome()
    ready = []
    for work in due:
        deferral = deferred.get(work.work)
        if deferral is not None and work.waits_for(deferral):
            outcome.notes.append(f"{work.name} is {deferral}")
        else:
            ready.append(work)
    return request_runs(instance, ready, outcome)


def request_runs(
    instance: dg.DagsterInstance, due: Sequence[PendingWork], outcome: TickOutcome
) -> TickOutcome:
    """The same for work that may be requested although it is deferred; extends the outcome."""
    if not due:
        return outcome
    works = {work.work for work in due}
    covered = in_flight(instance, works)
    failed = failed_runs(instance, works)
    locks = {work.lock for work in due if work.lock and work.work in covered}
    for work in due:
        failures = _Failures.of(work, failed)
        if work.work in covered:
            outcome.notes.append(f"{work.name} is in flight")
        elif work.lock in locks:
            outcome.notes.append(f"{work.name} is next: another run takes the lock on {work.lock}")
        elif refusal := failures.refusal():
            outcome.notes.append(f"{work.name} {refusal}")
        elif len(outcome.requests) == MAX_RUNS_PER_TICK:
            outcome.notes.append(
                f"more than {MAX_RUNS_PER_TICK} partitions are due; the next ticks request the rest"
            )
            break
        else:
            outcome.requests.append(_request(work, attempt=failures.in_a_row + 1))
            if work.lock:
                locks.add(work.lock)
    return outcome


def wait_after(failures: int) -> timedelta:
    """The wait after this many failures in a row: 30 s, doubled each time, at most 8 min."""
    wait: timedelta = _FIRST_WAIT * 2 ** (min(failures, MAX_ATTEMPTS) - 1)
    return wait


def _request(work: PendingWork, attempt: int) -> dg.RunRequest:
    done_at = work.done_at.isoformat() if work.done_at else "never"
    return dg.RunRequest(
        run_key=f"{work.asset}:{work.partition_key}:{done_at}:attempt-{attempt}",
        job_name=prefixed(work.job) if work.job else None,
        asset_selection=None if work.job else [asset_key(work.asset)],
        partition_key=work.partition_key or None,
        tags={REQUESTED_FOR_TAG: work.asset, **priority_tags(work.asset, work.priority)},
    )


@dataclass(frozen=True)
class _Failures:
    """The failed runs of a piece of work.

    Attributes:
        in_a_row: Since the work was last done.
        since_newest: Of these, those since the newest event arrived.
        retry_at: When the next attempt may start.
    """

    in_a_row: int
    since_newest: int
    retry_at: datetime

    @classmethod
    def of(cls, work: PendingWork, failed: Mapping[Work, Sequence[dg.RunRecord]]) -> "_Failures":
        now = datetime.now(UTC)
        runs = [
            run
            for run in failed.get(work.work, ())
            if work.done_at is None or run.create_timestamp > work.done_at
        ]
        if not runs:
            return cls(in_a_row=0, since_newest=0, retry_at=now)
        # Meta's clock may be ahead of ours. A time in the future must not hide the failures until
        # then.
        newest_at = work.newest_at if work.newest_at and work.newest_at <= now else None
        return cls(
            in_a_row=len(runs),
            since_newest=sum(newest_at is None or run.create_timestamp > newest_at for run in runs),
            retry_at=max(run.update_timestamp for run in runs) + wait_after(len(runs)),
        )

    def refusal(self) -> str | None:
        """Why no run is requested now; None if one may be."""
        if self.since_newest >= MAX_ATTEMPTS:
            return (
                f"is paused after {self.in_a_row} failed runs. Fix the cause shown in the last "
                "run, then re-execute that run or materialize the partition"
            )
        if datetime.now(UTC) < self.retry_at:
            return f"failed {self.in_a_row} times; next attempt at {self.retry_at:%H:%M:%S} UTC"
        return None
