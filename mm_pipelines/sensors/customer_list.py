"""New and changed lists, seen by what the file system tells of them, never by reading them."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import dagster as dg
from pydantic import BaseModel, Field, ValidationError

from mm_pipelines.lists.location import stat_list
from mm_pipelines.partitions import CONFIG, AudienceDay

DAYS_WATCHED = 7
"""Lists that change later are uploaded by a backfill, which a person asks for."""

_LISTS_A_TICK = 100
_RUNS_A_TICK = 25


class Seen(BaseModel):
    """The sensor's cursor: the mark of each watched list, and the partition looked at last."""

    marks: dict[str, str] = Field(default_factory=dict)
    last_looked_at: str = ""

    @classmethod
    def of(cls, cursor: str | None) -> "Seen":
        """The cursor as it was stored; one that cannot be read begins anew.

        Beginning anew asks again for lists that were uploaded: their runs find nothing to do.
        """
        if not cursor:
            return cls()
        try:
            return cls.model_validate_json(cursor)
        except ValidationError:
            return cls()


@dg.sensor(
    job_name="daily_upload",
    minimum_interval_seconds=60,
    # Lists that are still being written when the sensor looks are the business of each site: it is
    # switched on where they are put in place whole. The schedule runs without it.
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        f"A list of the last {DAYS_WATCHED} days that is new or has changed asks for daily_upload "
        "of its partition."
    ),
)
def customer_list_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Ask for the upload of each list that was not there before, or not like this."""
    seen = Seen.of(context.cursor)
    watched = list(_watched(datetime.now(CONFIG.zone)))
    keys = {partition.key for partition in watched}
    marks = {key: mark for key, mark in seen.marks.items() if key in keys}
    requests: list[dg.RunRequest] = []
    last_looked_at = seen.last_looked_at
    for partition in _from(watched, seen.last_looked_at)[:_LISTS_A_TICK]:
        if len(requests) == _RUNS_A_TICK:
            break
        last_looked_at = partition.key
        mark = _mark(partition, context.log)
        if mark is None or mark == marks.get(partition.key):
            continue
        marks[partition.key] = mark
        requests.append(
            dg.RunRequest(run_key=f"{partition.key}:{mark}", partition_key=partition.key)
        )
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"No list of the last {DAYS_WATCHED} days has changed",
        cursor=Seen(marks=marks, last_looked_at=last_looked_at).model_dump_json(),
    )


def _watched(now: datetime) -> Iterator[AudienceDay]:
    for days in range(DAYS_WATCHED):
        day = (now - timedelta(days=days)).date()
        if day >= CONFIG.start_date:
            yield from (AudienceDay(audience, day) for audience in CONFIG.audiences)


def _from(watched: list[AudienceDay], last_looked_at: str) -> list[AudienceDay]:
    """The partitions in the order of looking: on from where the last tick stopped."""
    keys = [str(partition.key) for partition in watched]
    start = keys.index(last_looked_at) + 1 if last_looked_at in keys else 0
    return watched[start:] + watched[:start]


def _mark(partition: AudienceDay, log: logging.Logger) -> str | None:
    try:
        stat = stat_list(partition.list_url)
    except OSError as error:
        # One place out of reach does not keep the other lists waiting.
        log.warning(f"the list of {partition.key} cannot be looked at: {type(error).__name__}")
        return None
    return stat.mark if stat else None
