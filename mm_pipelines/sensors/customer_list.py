"""Requests uploads and removals when a list is new or has changed, without reading it.

A list is done when the asset was materialized after the sensor saw the list in its present state.
Until then the sensor requests it again, so a list whose run failed is not forgotten.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg
from pydantic import BaseModel, Field, ValidationError

from mm_pipelines.lists import RowSource
from mm_pipelines.naming import prefixed, select
from mm_pipelines.orchestration.failures import skip_on_passing_fault
from mm_pipelines.partitions import CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.sensors.rotation import in_turn
from mm_pipelines.sensors.run_records import last_materialized
from mm_pipelines.sensors.run_requests import PendingWork, build_run_requests
from mm_pipelines.warehouse.database import Database

DAYS_WATCHED = 7
"""Days up to today whose lists are watched. Older lists are uploaded by a backfill."""

_TICK_SECONDS = 20.0  # Dagster ends a tick after 60 s.


class SeenList(BaseModel):
    """The state of one partition's lists.

    Attributes:
        mark: Changes when a list changes (size, time, ETag).
        seen_at: When the sensor first saw this mark.
        done: Whether the asset was materialized since.
    """

    mark: str
    seen_at: datetime
    done: bool = False


class Seen(BaseModel):
    """The sensor's cursor: the lists seen so far, and the partition examined last."""

    lists: dict[str, SeenList] = Field(default_factory=dict)
    last_examined: str = ""

    @classmethod
    def of(cls, cursor: str | None) -> Self:
        """The stored cursor; one that cannot be read starts empty.

        An empty cursor requests lists again that were uploaded. Their runs find nothing new.
        """
        try:
            return cls.model_validate_json(cursor or "{}")
        except ValidationError:
            return cls()


@dg.sensor(
    name=prefixed("customer_list_sensor"),
    job_name=prefixed("daily_upload"),
    minimum_interval_seconds=60,
    # Off by default: the sensor cannot see whether a list is still being written. Turn it on where
    # lists are put in place by a rename. The schedule works without it.
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        f"Requests daily_upload for each list of the last {DAYS_WATCHED} days that is new or has "
        "changed, until it is uploaded."
    ),
)
@skip_on_passing_fault
def customer_list_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request the upload of each list that was not uploaded in its present state."""
    return _evaluate(
        context,
        mm_database.get(),
        asset="audience_upload",
        job="daily_upload",
        lists_of=lambda partition: [partition.customer_list],
    )


@dg.sensor(
    name=prefixed("removal_list_sensor"),
    asset_selection=select("audience_removals"),
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        f"Requests audience_removals for each removal list of the last {DAYS_WATCHED} days that is "
        "new or has changed, until its people are removed."
    ),
)
@skip_on_passing_fault
def removal_list_sensor(
    context: dg.SensorEvaluationContext, mm_database: DatabaseResource
) -> dg.SensorResult:
    """Request the removals of each list that was not carried out in its present state."""
    return _evaluate(
        context,
        mm_database.get(),
        asset="audience_removals",
        job=None,
        lists_of=lambda partition: partition.removal_lists,
    )


def _evaluate(
    context: dg.SensorEvaluationContext,
    database: Database,
    *,
    asset: str,
    job: str | None,
    lists_of: Callable[[AudienceDay], Sequence[RowSource]],
) -> dg.SensorResult:
    seen = Seen.of(context.cursor)
    watched = {str(partition.key): partition for partition in _watched(datetime.now(CONFIG.zone))}
    lists = {key: entry for key, entry in seen.lists.items() if key in watched}
    now, last_examined = datetime.now(UTC), ""
    for last_examined in in_turn(list(watched), seen.last_examined, _TICK_SECONDS):
        mark = _mark(lists_of(watched[last_examined]), context.log)
        if mark and (last_examined not in lists or lists[last_examined].mark != mark):
            lists[last_examined] = SeenList(mark=mark, seen_at=now)
    undone = [key for key, entry in lists.items() if not entry.done]
    done_at = last_materialized(context.instance, asset, undone) if undone else {}
    for key in undone:
        lists[key].done = key in done_at and done_at[key] > lists[key].seen_at
    due = [
        PendingWork(
            asset,
            key,
            done_at=entry.seen_at,
            newest_at=entry.seen_at,
            job=job,
            urgent_since=entry.seen_at,
        )
        for key, entry in lists.items()
        if not entry.done
    ]
    cursor = Seen(lists=lists, last_examined=last_examined).model_dump_json()
    return build_run_requests(context.instance, database, due).result(context, cursor=cursor)


def _watched(now: datetime) -> Iterator[AudienceDay]:
    for days in range(DAYS_WATCHED):
        day = (now - timedelta(days=days)).date()
        if day >= CONFIG.start_date:
            yield from (AudienceDay(audience, day) for audience in CONFIG.audiences)


def _mark(sources: Sequence[RowSource], log: logging.Logger) -> str | None:
    """The combined mark of the lists that exist; None if there is none."""
    marks = []
    for source in sources:
        try:
            mark = source.mark()
        except OSError as error:
            # One unreachable store does not delay the other lists.
            log.warning(f"a list's store is unreachable: {type(error).__name__}")
            return None
        if mark is not None:
            marks.append(mark)
    return "\n".join(marks) or None
