"""What Dagster does when a call to Meta fails: fail for good, or try again later (design 7.5)."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from mm_pipelines.delivery.errors import DeliveryError, RowsNotReceivedError
from mm_pipelines.graph_api.errors import GraphApiError, ThrottledError, TransientError
from mm_pipelines.suppression.suppression_list import SuppressionKeyError
from mm_pipelines.tokens.errors import TokenPullError
from mm_pipelines.warehouse.database import LockTakenError

MOST_RETRIES = 10
_FIRST_WAIT_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 900.0


@contextmanager
def meta_failures(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Translate the errors of our own trees into Dagster's two answers.

    A throttle, a passing fault and another run at work on the same thing are tried again after a
    wait (what was acknowledged stays so); everything else fails with its facts as metadata.

    Raises:
        dagster.Failure: Trying again cannot help, or was tried often enough.
        dagster.RetryRequested: It may help after ``seconds_to_wait``.
    """
    try:
        yield
    except (
        GraphApiError,
        DeliveryError,
        TokenPullError,
        LockTakenError,
        SuppressionKeyError,
    ) as error:
        wait = _seconds_to_wait(error, context.retry_number)
        if wait is None or context.retry_number >= MOST_RETRIES:
            raise _failure(error) from None
        context.log.warning(f"{error} - trying again in {wait:,.0f} s")
        raise dg.RetryRequested(max_retries=MOST_RETRIES, seconds_to_wait=wait) from error


def _seconds_to_wait(error: Exception, retry_number: int) -> float | None:
    """How long to wait before trying again; None if it cannot help."""
    if isinstance(error, ThrottledError):
        return error.wait_seconds
    if isinstance(error, LockTakenError):
        return _FIRST_WAIT_SECONDS
    if isinstance(error, TransientError | RowsNotReceivedError):
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
