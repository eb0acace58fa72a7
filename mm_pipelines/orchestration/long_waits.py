"""Defers work that would have to wait longer than a minute, so that the run ends.

The rules are in docs/decisions/0010-defer-instead-of-waiting.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import dagster as dg

from mm_pipelines.delivery.errors import UploadsPausedError
from mm_pipelines.graph_api.errors import ThrottledError
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.deferrals import Deferral
from mm_pipelines.orchestration.failures import (
    LONGEST_WAIT_IN_RUN,
    MOST_RETRIES,
    failure,
    seconds_to_wait,
)
from mm_pipelines.orchestration.passing_faults import loses_the_database
from mm_pipelines.warehouse.database import Database, LockLostError, LockTakenError

_LONGEST_WAIT_SECONDS: Final = 900.0

# `mm resume` makes the work due at once.
_PAUSED_SECONDS: Final = 86_400.0


@dataclass
class Attempt:
    """The outcome of the guarded block.

    Attributes:
        deferral: Set if the block had to wait and its work was deferred.
    """

    deferral: Deferral | None = None


@contextmanager
def defer_long_waits(
    context: dg.AssetExecutionContext,
    database: Database,
    progress: Callable[[], int] | None = None,
) -> Iterator[Attempt]:
    """Defer the partition's work if the block has to wait for long, or for another run's lock.

    Then the error is swallowed and the attempt has its ``deferral``: the asset ends with what it
    did. Every other error is raised; `translate_errors` handles it. If the block succeeds, an
    earlier deferral of the partition is deleted.

    Args:
        context: The run's.
        database: Where deferrals are recorded.
        progress: Returns a count that grows with the work done. An attempt during which it changes
            does not count as one without progress.

    Raises:
        dagster.Failure: Too many attempts in a row made no progress.
    """
    attempt = Attempt()
    count_before = progress() if progress else None
    try:
        yield attempt
    except Exception as error:
        if not is_long_wait(error, context.retry_number):
            raise
        made_progress = progress is not None and progress() != count_before
        attempt.deferral = _defer(context, database, error, made_progress=made_progress)
    else:
        with database.transaction() as connection:
            deferrals.finish(connection, *_work(context))


def deferred_result(
    deferral: Deferral,
    metadata: Mapping[str, dg.MetadataValue | int] | None = None,
    check_results: Sequence[dg.AssetCheckResult] = (),
) -> dg.MaterializeResult[None]:
    """The result of a run that deferred work: until when and why, beside what it did."""
    return dg.MaterializeResult(
        metadata={**deferral_metadata(deferral), **(metadata or {})}, check_results=check_results
    )


def deferral_metadata(deferral: Deferral | None) -> dict[str, dg.MetadataValue]:
    """Until when work is deferred and why; empty if it is not."""
    if deferral is None:
        return {}
    return {
        "deferred_until": dg.MetadataValue.timestamp(deferral.due_at),
        "deferred_because": dg.MetadataValue.text(deferral.reason),
    }


def is_long_wait(error: Exception, retry_number: int) -> bool:
    """Whether another attempt may help, but not within a minute."""
    if isinstance(error, UploadsPausedError):
        return True
    if isinstance(error, LockTakenError):
        # How long the other run needs is unknown. A lost lock is free when PostgreSQL is back.
        return not isinstance(error, LockLostError)
    wait = seconds_to_wait(error, retry_number)
    return wait is not None and wait > LONGEST_WAIT_IN_RUN and not loses_the_database(error)


def _defer(
    context: dg.AssetExecutionContext, database: Database, error: Exception, *, made_progress: bool
) -> Deferral:
    asset, partition_key = _work(context)
    lock = error.lock if isinstance(error, LockTakenError) else None
    with database.transaction() as connection:
        before = deferrals.find(connection, asset, partition_key)
        wait = _seconds_deferred(error, context.retry_number)
        has_stated_wait = isinstance(error, ThrottledError | UploadsPausedError)
        if before and not has_stated_wait and not made_progress:
            wait = min(_LONGEST_WAIT_SECONDS, wait * 2.0**before.attempts)
        deferral = deferrals.defer(
            connection,
            asset,
            partition_key,
            wait=timedelta(seconds=wait),
            reason=f"{type(error).__name__}: {error}",
            waits_for_lock=lock,
            made_progress=made_progress,
            run_id=context.run.run_id,
        )
    # A lock is free when the other run ends, and a pause ends when a person ends it.
    waits_for_others = lock is not None or isinstance(error, UploadsPausedError)
    if deferral.attempts >= MOST_RETRIES and not waits_for_others:
        raise failure(error) from None
    context.log.warning(f"The rest of the work is {deferral}")
    return deferral


def _seconds_deferred(error: Exception, retry_number: int) -> float:
    if isinstance(error, LockTakenError):
        return 0.0
    if isinstance(error, UploadsPausedError):
        return _PAUSED_SECONDS
    return seconds_to_wait(error, retry_number) or 0.0


def _work(context: dg.AssetExecutionContext) -> tuple[str, str]:
    """The asset and its partition; the partition of an asset without partitions is ``""``."""
    return context.asset_key.path[-1], context.partition_key if context.has_partition_key else ""
