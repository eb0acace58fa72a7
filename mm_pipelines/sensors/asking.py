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
"""After so many failed runs in a row a partition is set aside, until a person has made it work."""

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
    """

    asset: str
    partition_key: str
    done_at: datetime | None


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
        failed, last_ended = _failures(instance, work)
        if failed >= MAX_ATTEMPTS:
            asked.notes.append(
                f"{_name(work)} is set aside after {failed} failed runs: "
                "settle what they say and materialise it by hand"
            )
            continue
        if failed and datetime.now(UTC) < (again_at := last_ended + wait_after(failed)):
            asked.notes.append(
                f"{_name(work)} failed {failed} times; tried again at {again_at:%H:%M:%S} UTC"
            )
            continue
        if len(asked.requests) == RUNS_A_TICK:
            asked.notes.append(f"more than {RUNS_A_TICK} are due: the rest is for the next ticks")
            break
        asked.requests.append(_request(work, attempt=failed + 1))
    return asked


def wait_after(failures: int) -> timedelta:
    """How long to wait after so many failures in a row: 30 s, and twice as long each time."""
    wait: timedelta = _FIRST_WAIT * 2 ** (failures - 1)
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


def _failures(instance: dg.DagsterInstance, work: Work) -> tuple[int, datetime]:
    """How many runs failed since the work was last done, and when the last of them ended."""
    records = instance.get_run_records(
        dg.RunsFilter(
            tags={ASKED_FOR_TAG: work.asset, _PARTITION_TAG: work.partition_key},
            statuses=list(_FAILED),
        ),
        limit=MAX_ATTEMPTS,
        order_by="create_timestamp",
        ascending=False,
    )
    since = [
        record
        for record in records
        if work.done_at is None or record.create_timestamp > work.done_at
    ]
    ended = max((record.update_timestamp for record in since), default=datetime.now(UTC))
    return len(since), ended


def _is_created_only(run: dg.DagsterRun) -> bool:
    """A run that a sensor's tick created and could not launch: asking again launches it."""
    return run.status is dg.DagsterRunStatus.NOT_STARTED and ASKED_FOR_TAG in run.tags


def _name(work: Work) -> str:
    return f"{work.asset} of {work.partition_key}"
