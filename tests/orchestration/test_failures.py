"""Passing faults are retried in every asset and sensor; other errors fail with their sentence."""

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mm_pipelines.definitions import defs
from mm_pipelines.delivery.errors import PayloadMissingError, RowsNotReceivedError
from mm_pipelines.graph_api.errors import (
    AmbiguousOutcomeError,
    PermanentError,
    PermissionDeniedError,
    PolicyError,
    TermsNotAcceptedError,
    ThrottledError,
    TokenError,
    TransientError,
    VersionDeadError,
)
from mm_pipelines.lists.errors import ListMissingError, ListUnreadableError
from mm_pipelines.orchestration.failures import (
    LONGEST_WAIT_IN_RUN,
    MOST_RETRIES,
    skip_on_passing_fault,
    translate_errors,
)
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.suppression.keys import SuppressionKeyError
from mm_pipelines.warehouse.database import Database, LockLostError


def outcome(error: Exception, retry_number: int = 0) -> BaseException:
    """What an asset raises whose body raises the error."""

    @translate_errors
    def asset(_context: object) -> None:
        raise error

    context = SimpleNamespace(retry_number=retry_number, log=logging.getLogger("asset"))
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the caller asserts which
        list(asset(context))
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        AmbiguousOutcomeError("reset"),
        TransientError("busy"),
        ThrottledError("too many calls", wait_seconds=20),
        RowsNotReceivedError("x"),
        LockLostError("z", "audience:a"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_a_passing_fault_is_retried_and_at_last_fails(error: Exception) -> None:
    retry = outcome(error)
    assert isinstance(retry, dg.RetryRequested)
    assert (retry.seconds_to_wait or 0) <= LONGEST_WAIT_IN_RUN
    assert not isinstance(outcome(error, MOST_RETRIES), dg.RetryRequested)


@pytest.mark.parametrize("retry_number", range(MOST_RETRIES))
def test_no_wait_in_a_run_exceeds_a_minute(retry_number: int) -> None:
    retry = outcome(ThrottledError("too many calls", wait_seconds=3600), retry_number)
    assert isinstance(retry, dg.RetryRequested)
    assert retry.seconds_to_wait == LONGEST_WAIT_IN_RUN


@pytest.mark.parametrize(
    "error",
    [
        TokenError("expired", code=190),
        PermissionDeniedError("no", code=200),
        TermsNotAcceptedError("terms", code=2663),
        PolicyError("flagged", code=368),
        PermanentError("wrong", code=100),
        VersionDeadError("dead", code=2635),
        PayloadMissingError("nothing"),
        ListMissingError("a.csv", "", "there is no such file"),
        SuppressionKeyError(),
    ],
)
def test_an_error_of_ours_that_cannot_pass_fails_at_once(error: Exception) -> None:
    failure = outcome(error)
    assert isinstance(failure, dg.Failure)
    assert failure.allow_retries is False
    assert failure.description == str(error)
    assert failure.metadata["kind"].value == type(error).__name__


def test_a_list_in_an_unreachable_store_is_retried() -> None:
    def read() -> None:
        try:
            raise TimeoutError
        except OSError:
            raise ListUnreadableError("s3://lists/a.csv", "", "cannot be read") from None

    with pytest.raises(ListUnreadableError) as raised:
        read()
    assert isinstance(outcome(raised.value), dg.RetryRequested)


def test_a_programming_error_stays_unchanged() -> None:
    error = ZeroDivisionError()
    assert outcome(error) is error


def decorated(function: Callable[..., Any], decorator: Callable[..., Any]) -> bool:
    return function.__code__ is decorator(lambda: None).__code__


def test_every_asset_and_op_retries_passing_faults() -> None:
    jobs = [defs.resolve_job_def(job.name) for job in defs.resolve_all_job_defs()]
    definitions = [node.definition for job in jobs for node in job.graph.nodes]
    computed = {
        definition.name: definition.compute_fn.decorated_fn
        for definition in definitions
        if isinstance(definition, dg.OpDefinition)
        and isinstance(definition.compute_fn, DecoratedOpFunction)
    }
    # Another team's assets are known by their keys only.
    ours = {key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys}
    ours.add("remove_expired_data")
    assert [name for name in ours if not decorated(computed[name], translate_errors)] == []


def test_every_sensor_skips_a_tick_with_a_passing_fault() -> None:
    assert defs.sensors
    for sensor in defs.sensors:
        assert isinstance(sensor, dg.SensorDefinition)
        assert decorated(sensor._raw_fn, skip_on_passing_fault), sensor.name


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def terminate_backend(database: Database) -> None:
    """End this session in the middle of a transaction, as a restart of PostgreSQL does."""
    with database.transaction() as connection:
        connection.execute(text("select pg_terminate_backend(pg_backend_pid())"))


def test_an_asset_whose_backend_is_terminated_is_computed_again(
    database_url: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mm_pipelines.orchestration.failures._FIRST_WAIT_SECONDS", 0.1)
    attempts = []

    @dg.asset
    @translate_errors
    def fragile(
        context: dg.AssetExecutionContext, mm_database: DatabaseResource
    ) -> dg.MaterializeResult[None]:
        attempts.append(context.retry_number)
        if context.retry_number == 0:
            terminate_backend(mm_database.get())
        with mm_database.get().transaction() as connection:
            connection.execute(text("select 1"))
        return dg.MaterializeResult()

    result = dg.materialize(
        [fragile], instance=instance, resources={"mm_database": DatabaseResource(url=database_url)}
    )
    assert result.success
    assert attempts == [0, 1]


def test_a_sensor_whose_backend_is_terminated_skips_the_tick(database: Database) -> None:
    @skip_on_passing_fault
    def evaluate(_context: dg.SensorEvaluationContext) -> dg.SensorResult:
        terminate_backend(database)
        raise AssertionError

    context = SimpleNamespace(log=logging.getLogger("sensor"))
    result = evaluate(context)
    assert result.cursor is None
    assert "The next tick tries again" in str(result.skip_reason)


def test_a_sensor_with_a_wrong_statement_fails_the_tick(database: Database) -> None:
    @skip_on_passing_fault
    def evaluate(_context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with database.transaction() as connection:
            connection.execute(text("select from mm.no_such_table"))
        raise AssertionError

    with pytest.raises(DBAPIError):
        evaluate(SimpleNamespace(log=logging.getLogger("sensor")))
