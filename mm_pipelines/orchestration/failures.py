"""Translates errors into Dagster's answers: fail, retry soon, or defer.

The rules are in docs/decisions/0010-defer-instead-of-waiting.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import dagster as dg

from mm_pipelines.delivery.errors import DeliveryError, RowsNotReceivedError
from mm_pipelines.graph_api.errors import GraphApiError, ThrottledError, TransientError
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.deferrals import Deferral
from mm_pipelines.orchestration.passing_faults import is_passing_fault, loses_the_database
from mm_pipelines.suppression.suppression_list import SuppressionKeyError
from mm_pipelines.tokens.errors import TokenPullError
from mm_pipelines.warehouse.database import Database, LockTakenError

MOST_RETRIES: Final = 10
"""Attempts in a row without progress, after which a run fails."""

LONGEST_WAIT_IN_RUN: Final = 60.0
"""Seconds that a run may wait inside its process. A longer wait is deferred."""

_FIRST_WAIT_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 900.0
_OWN_ERRORS = (GraphApiError, DeliveryError, TokenPullError, LockTakenError, SuppressionKeyError)


@dataclass
class Attempt:
    """The outcome of the guarded block.

    Attributes:
        deferral: Set if the block had to wait and its work was deferred.
    """

    deferral: Deferral | None = None


@contextmanager
def meta_failures(
    context: dg.AssetExecutionContext,
    database: Database | None = None,
    progress: Callable[[], int] | None = None,
) -> Iterator[Attempt]:
    """Translate the errors of the block into Dagster's answers.

    A throttle, a passing fault and a lock that another run holds are retried: after a short wait
    inside the run, or as a deferral if ``database`` is given. Then the error is swallowed and the
    attempt has its ``deferral``: the asset ends with what it did. Every other error fails the run
    with its facts as metadata.

    Args:
        context: The run's.
        database: Where deferrals are recorded. Without it, the run waits in its process.
        progress: Returns a count that grows with the work done. An attempt during which it changes
            does not count as one without progress.

    Raises:
        dagster.Failure: Another attempt cannot help, or too many in a row made no progress.
        dagster.RetryRequested: Another attempt in a minute or less may help.
    """
    attempt = Attempt()
    count_before = progress() if progress else None
    try:
        yield attempt
    except (dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:
        wait = _seconds_to_wait(error, context.retry_number)
        if wait is None:
            if not isinstance(error, _OWN_ERRORS):
                raise
            raise _failure(error) from None
        is_short = wait <= LONGEST_WAIT_IN_RUN or loses_the_database(error)
        if database is None or is_short:
            raise _retry(context, error, wait) from error
        attempt.deferral = _defer(
            context,
            database,
            error,
            wait,
            made_progress=progress is not None and progress() != count_before,
        )
    else:
        if database is not None:
            with database.transaction() as connection:
                deferrals.finish(connection, *_work(context))


def deferred_result(
    deferral: Deferral,
    metadata: Mapping[str, dg.MetadataValue | int] | None = None,
    check_results: Sequence[dg.AssetCheckResult] = (),
) -> dg.MaterializeResult[None]:
    """The result of a run that deferred work: until when and why, beside what it did."""
    return dg.MaterializeResult(
        metadata={
            "deferred_until": dg.MetadataValue.timestamp(deferral.due_at),
            "deferred_because": deferral.reason,
            **(metadata or {}),
        },
        check_results=check_results,
    )


def _retry(
    context: dg.AssetExecutionContext, error: Exception, wait: float
) -> dg.RetryRequested | dg.Failure:
    if context.retry_number >= MOST_RETRIES:
        return _failure(error)
    if loses_the_database(error):
        wait = min(wait, LONGEST_WAIT_IN_RUN)
    context.log.warning(f"{error} - next attempt in {wait:,.0f} s")
    return dg.RetryRequested(max_retries=MOST_RETRIES, seconds_to_wait=wait)


def _defer(
    context: dg.AssetExecutionContext,
    database: Database,
    error: Exception,
    wait: float,
    *,
    made_progress: bool,
) -> Deferral:
    asset, partition_key = _work(context)
    with database.transaction() as connection:
        before = deferrals.find(connection, asset, partition_key)
        if before and not isinstance(error, ThrottledError) and not made_progress:
            wait = min(_LONGEST_WAIT_SECONDS, wait * 2.0**before.attempts)
        deferral = deferrals.defer(
            connection,
            asset,
            partition_key,
            wait=timedelta(seconds=wait),
            reason=f"{type(error).__name__}: {error}",
            made_progress=made_progress,
            run_id=context.run.run_id,
        )
    if deferral.attempts >= MOST_RETRIES:
        raise _failure(error) from None
    context.log.warning(f"{error} - deferred until {deferral.due_at:%Y-%m-%d %H:%M:%S} UTC")
    return deferral


def _work(context: dg.AssetExecutionContext) -> tuple[str, str]:
    return context.asset_key.path[-1], context.partition_key


def _seconds_to_wait(error: Exception, retry_number: int) -> float | None:
    """How long to wait before the next attempt; None if another attempt cannot help."""
    if isinstance(error, ThrottledError):
        return error.wait_seconds
    if isinstance(error, _OWN_ERRORS):
        passes = isinstance(error, TransientError | RowsNotReceivedError | LockTakenError)
    else:
        passes = is_passing_fault(error)
    if passes:
        return min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0**retry_number)
    return None


def _failure(error: Exception) -> dg.Failure:
    metadata: dict[str, dg.MetadataValue] = {"kind": dg.MetadataValue.text(type(error).__name__)}
    if isinstance(error, GraphApiError):
        facts = {"code": error.code, "subcode": error.subcode, "http_status": error.status}
        metadata |= {
            name: dg.MetadataValue.int(value) for name, value in facts.items() if value is not None
        }
        if error.fbtrace_id:
            metadata["fbtrace_id"] = dg.MetadataValue.text(error.fbtrace_id)
        metadata["next_step"] = dg.MetadataValue.text(error.next_step)
    return dg.Failure(str(error), metadata=metadata, allow_retries=False)
