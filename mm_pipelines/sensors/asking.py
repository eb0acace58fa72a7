"""How a sensor asks for work: one run a partition, never beside one in flight, never for ever.

A sensor reads and claims nothing (design 4): what is due stays due until an asset has acknowledged
it, so a tick, a run or a whole stack that dies is made good by the next tick. What was tried
already is known from Dagster's own run records. The run key has an attempt number, because Dagster
never launches a key again that failed; asking twice for the same attempt launches one run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

MAX_ATTEMPTS = 5
"""After so many failed runs a partition is set aside, until a person has made it work or something
newer asks for it."""

RUNS_A_TICK = 25

EVERY_TURN_SECONDS = 1
"""The interval of a sensor that is to tick as often as it can.

Dagster's daemon turns to its sensors every 5 s and leaves out one whose interval is not over. Asked
for 5 s, it left out every other turn: a tick's beginning is noted a little after the turn's.
"""

ASKED_FOR_TAG = "mm/asked_for"
_PARTITION_TAG = "dagster/partition"
_FIRST_WAIT = timedelta(seconds=30)
_RUNS_LOOKED_AT = 1_000
_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class Work:
    """A partition of an asset that is out of date.

    Attributes:
        done_at: When the asset last did this partition's work; failures before it do not count.
        asked_at: When the newest event or change came that asks for it: failures before it set
            nothing aside, and only lengthen the wait.
    """

    asset: str
    partition_key: str
    done_at: datetime | None
    asked_at: datetime | None = None


@dataclass
class Asked:
    """What a tick asks for, and what a person should know of the rest."""

    requests: list[dg.RunRequest] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def result(self, context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """The tick's answer; the notes are its skip message, or lines of its log."""
        for note in self.notes:
            context.log.info(note)
        if self.requests:
            return dg.SensorResult(run_requests=self.requests)
        return dg.SensorResult(skip_reason="; ".join(self.notes) or "Nothing is due")


def ask(
    instance: dg.DagsterInstance,
    due: Sequence[Work],
    *,
    is_served_by: Callable[[dg.DagsterRun, Work], bool],
) -> Asked:
    """Ask for what is due and may be tried now.

    Args:
        instance: Whose run records say what is in flight and what failed.
        due: The longest due first.
        is_served_by: Whether an unfinished run will do a piece of work.
    """
    asked = Asked()
    unfinished = [
        run
        for run in instance.get_runs(
            dg.RunsFilter(statuses=list(_UNFINISHED)), limit=_RUNS_LOOKED_AT
        )
        if not _is_created_only(run)
    ]
    for work in due:
        if any(is_served_by(run, work) for run in unfinished):
            asked.notes.append(f"{_name(work)} is in flight")
            continue
        failures = _failures(instance, work)
        if failures.since_asked >= MAX_ATTEMPTS:
            asked.notes.append(
                f"{_name(work)} is set aside after {failures.in_a_row} failed runs: settle what "
                "they say, then materialise it by hand or execute the last of them again"
            )
            continue
        if datetime.now(UTC) < failures.again_at:
            asked.notes.append(
                f"{_name(work)} failed {failures.in_a_row} times; "
                f"tried again at {failures.again_at:%H:%M:%S} UTC"
            )
            continue
        if len(asked.requests) == RUNS_A_TICK:
            asked.notes.append(f"more than {RUNS_A_TICK} are due: the rest is for the next ticks")
            break
        asked.requests.append(_request(work, attempt=failures.in_a_row + 1))
    return asked


def wait_after(failures: int) -> timedelta:
    """How long to wait after so many failures in a row: 30 s, then twice as long, up to 8 min."""
    wait: timedelta = _FIRST_WAIT * 2 ** (min(failures, MAX_ATTEMPTS) - 1)
    return wait


def last_done(instance: dg.DagsterInstance, asset: str, partition_key: str) -> datetime | None:
    """When an asset's partition was last materialised; None before the first time."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition_key]), limit=1
    ).records
    return datetime.fromtimestamp(records[0].timestamp, UTC) if records else None


def does(run: dg.DagsterRun, asset: str, jobs: Sequence[str] = ()) -> bool:
    """Whether a run materialises an asset: by its selection, or as all of one of ``jobs``."""
    if run.asset_selection:
        return dg.AssetKey(asset) in run.asset_selection
    return run.job_name in jobs


def partition_of(run: dg.DagsterRun) -> str | None:
    """The one partition that a run is for."""
    return run.tags.get(_PARTITION_TAG)


def _request(work: Work, attempt: int) -> dg.RunRequest:
    done_at = work.done_at.isoformat() if work.done_at else "never"
    return dg.RunRequest(
        run_key=f"{work.asset}:{work.partition_key}:{done_at}:attempt-{attempt}",
        asset_selection=[dg.AssetKey(work.asset)],
        partition_key=work.partition_key,
        tags={ASKED_FOR_TAG: work.asset},
    )


@dataclass(frozen=True)
class _Failures:
    """The failed runs of a piece of work.

    Attributes:
        in_a_row: Since it was last done.
        since_asked: Of these, those since something newer asked for it; counted up to the limit.
        again_at: When it may be tried again.
    """

    in_a_row: int
    since_asked: int
    again_at: datetime


def _failures(instance: dg.DagsterInstance, work: Work) -> _Failures:
    since_done = dg.RunsFilter(
        tags={ASKED_FOR_TAG: work.asset, _PARTITION_TAG: work.partition_key},
        statuses=list(_FAILED),
        created_after=work.done_at.astimezone(UTC) if work.done_at else None,
    )
    newest = instance.get_run_records(
        since_done, limit=MAX_ATTEMPTS, order_by="create_timestamp", ascending=False
    )
    now = datetime.now(UTC)
    if not newest:
        return _Failures(in_a_row=0, since_asked=0, again_at=now)
    in_a_row = len(newest)
    if in_a_row == MAX_ATTEMPTS:
        in_a_row = instance.get_runs_count(since_done)
    # Meta's clock may go before ours: a time to come must not hide the failures until then.
    asked_at = work.asked_at if work.asked_at and work.asked_at <= now else None
    return _Failures(
        in_a_row=in_a_row,
        since_asked=sum(asked_at is None or run.create_timestamp > asked_at for run in newest),
        again_at=max(run.update_timestamp for run in newest) + wait_after(in_a_row),
    )


def _is_created_only(run: dg.DagsterRun) -> bool:
    """A run that a sensor's tick created and could not launch: asking again launches it."""
    return run.status is dg.DagsterRunStatus.NOT_STARTED and ASKED_FOR_TAG in run.tags


def _name(work: Work) -> str:
    return f"{work.asset} of {work.partition_key}"
