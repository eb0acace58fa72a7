"""Translates the errors of assets into Dagster's answers: fail at once, or retry soon.

Every asset, op and sensor of ours has one of the two decorators below `dg.asset` or `dg.sensor`.
Waits of more than a minute are deferred by `long_waits`
(docs/decisions/0010-defer-instead-of-waiting.md).
"""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Final

import dagster as dg

from mm_pipelines.delivery.errors import DeliveryError, RowsNotReceivedError
from mm_pipelines.graph_api.errors import GraphApiError, ThrottledError, TransientError
from mm_pipelines.large_frames import SpillError
from mm_pipelines.lists.errors import ListError
from mm_pipelines.orchestration.passing_faults import is_passing_fault
from mm_pipelines.suppression.keys import SuppressionKeyError
from mm_pipelines.tokens.errors import LossesUnconfirmedError, TokenPullError
from mm_pipelines.warehouse.database import LockTakenError
from mm_pipelines.warehouse.pooler import PoolerError

MOST_RETRIES: Final = 10
"""Attempts in a row without progress, after which a run fails."""

LONGEST_WAIT_IN_RUN: Final = 60.0
"""Seconds that a run may wait inside its process."""

_FIRST_WAIT_SECONDS: Final = 30.0
_LONGEST_WAIT_SECONDS: Final = 900.0
_OWN_ERRORS: Final = (
    GraphApiError,
    DeliveryError,
    ListError,
    LockTakenError,
    PoolerError,
    SpillError,
    SuppressionKeyError,
    TokenPullError,
)
_PASSING_ERRORS: Final = (TransientError, RowsNotReceivedError, LockTakenError)


def translate_errors(compute: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """Decorate the function of an asset or op, so that passing faults are retried.

    After a passing fault of PostgreSQL, the object store or Meta the run waits up to a minute and
    computes the asset again, at most `MOST_RETRIES` times. An error of ours that cannot pass fails
    the run at once with its message and facts. Other errors are raised unchanged.
    """

    @wraps(compute)
    def translated(
        context: dg.AssetExecutionContext | dg.OpExecutionContext, **arguments: Any
    ) -> Iterator[Any]:
        try:
            result = compute(context, **arguments)
            if inspect.isgenerator(result):
                yield from result
            elif result is not None:
                yield result
        except (dg.Failure, dg.RetryRequested):
            raise
        except Exception as error:
            wait = seconds_to_wait(error, context.retry_number)
            if wait is not None and context.retry_number < MOST_RETRIES:
                wait = min(wait, LONGEST_WAIT_IN_RUN)
                context.log.warning(f"{error} - next attempt in {wait:,.0f} s")
                raise dg.RetryRequested(MOST_RETRIES, seconds_to_wait=wait) from error
            if not isinstance(error, _OWN_ERRORS):
                raise
            raise failure(error) from None

    return translated


def skip_on_passing_fault(
    evaluate: Callable[..., dg.SensorResult],
) -> Callable[..., dg.SensorResult]:
    """Decorate the function of a sensor, so that a passing fault skips the tick.

    The cursor stays unchanged, so the next tick reads the same work.
    """

    @wraps(evaluate)
    def evaluated(context: dg.SensorEvaluationContext, **resources: Any) -> dg.SensorResult:
        try:
            return evaluate(context, **resources)
        except Exception as error:
            if not is_passing_fault(error):
                raise
            reason = (
                "PostgreSQL or the object store did not answer "
                f"({type(error).__name__}). The next tick tries again."
            )
            context.log.warning(reason)
            return dg.SensorResult(skip_reason=reason)

    return evaluated


def seconds_to_wait(error: Exception, retry_number: int) -> float | None:
    """How long to wait before another attempt; None if it cannot help."""
    if isinstance(error, ThrottledError | LossesUnconfirmedError):
        return error.wait_seconds
    # An unreachable store is also the cause of some errors about lists and payloads.
    if isinstance(error, _PASSING_ERRORS) or (
        not isinstance(error, GraphApiError) and is_passing_fault(error)
    ):
        return min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0**retry_number)
    return None


def failure(error: Exception) -> dg.Failure:
    """The failure that shows an error of ours: its message, its class, and Meta's facts."""
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
