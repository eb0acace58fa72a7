"""A ledger to write deliveries into, and Meta's reports about them."""

import itertools
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import text

from mm_pipelines.match_status import observations, partition_status
from mm_pipelines.match_status.assignments import Assignment
from mm_pipelines.match_status.computation import MatchStatus
from mm_pipelines.match_status.observations import SessionObservation, UploadObservation
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from mm_pipelines.webhooks.envelope import parse

AUDIENCE = "acme_newsletter"
CUSTOM_AUDIENCE_ID = "140984918491243"
PAGE_ID = "134141414124123"
MONDAY = date(2026, 11, 16)
TUESDAY = date(2026, 11, 17)
OVERDUE_AFTER = timedelta(hours=24)


class Ledger:
    """What was delivered to an audience, and what Meta said about it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._sessions = itertools.count(1)
        self._times = itertools.count(1763000000)
        with database.transaction() as connection:
            connection.execute(
                text("insert into mm.custom_audience values (:a, :c, :p, '1', 'Newsletter')"),
                {"a": AUDIENCE, "c": CUSTOM_AUDIENCE_ID, "p": PAGE_ID},
            )

    def delivers(
        self,
        rows: int,
        day: date = MONDAY,
        *,
        status: str = "acknowledged",
        hours_ago: float = 0,
        audience: str = AUDIENCE,
    ) -> int:
        """A batch in a session of its own; returns the session's id."""
        session_id = next(self._sessions)
        at = datetime.now(UTC) - timedelta(hours=hours_ago)
        self.execute(
            "insert into mm.upload_batch (audience, day, session_id, batch_seq, row_count, "
            "content_sha256, status, acknowledged_at, sent_at) values (:audience, :day, "
            ":session_id, 1, :rows, 'x', :status, :acknowledged_at, :sent_at)",
            audience=audience,
            day=day,
            session_id=session_id,
            rows=rows,
            status=status,
            acknowledged_at=at if status == "acknowledged" else None,
            sent_at=at,
        )
        return session_id

    def acknowledges(self, session_id: int) -> None:
        """Meta's answer to a batch that was only sent."""
        self.execute(
            "update mm.upload_batch set status = 'acknowledged', acknowledged_at = now() "
            "where session_id = :session_id",
            session_id=session_id,
        )

    def freezes(self, day: date, rows: int, *, completed: bool) -> None:
        """The day's delta."""
        self.execute(
            "insert into mm.upload_delta (audience, day, custom_audience_id, operation, origin, "
            "source_sha256, path, row_count, keys, completed_at) values (:audience, :day, "
            ":custom_audience_id, 'add', 'payload', 'x', 'x', :rows, '{EMAIL}', "
            "case when :completed then now() end)",
            audience=AUDIENCE,
            day=day,
            custom_audience_id=CUSTOM_AUDIENCE_ID,
            rows=rows,
            completed=completed,
        )

    def hears(
        self,
        rows: int,
        *,
        lower: int = 105,
        upper: int = 120,
        status: str = "SUCCESS",
        object_: str = "page",
        time: int | None = None,
        timestamp: int | None = None,
        custom_audience_id: str = CUSTOM_AUDIENCE_ID,
        app_id: str | None = None,
    ) -> None:
        """A webhook about so many rows."""
        value = {
            "custom_audience_id": int(custom_audience_id),
            "page_id": int(PAGE_ID),
            "num_rows": rows,
            "approximate_count_lower_bound": lower,
            "approximate_count_upper_bound": upper,
            "batch_uploading_status": status,
        }
        if app_id is not None:
            value["app_id"] = int(app_id)
        if timestamp is not None:
            value["timestamp"] = timestamp
        change = {"field": webhook_event.UPLOAD_STATUS, "value": value}
        entry = {"id": PAGE_ID, "time": time or next(self._times), "changes": [change]}
        body = json.dumps({"object": object_, "entry": [entry]}).encode()
        with self.database.transaction() as connection:
            webhook_event.insert(connection, parse(body))

    def polls(self, *sessions: int, progress: str = "100", lower: int, upper: int) -> None:
        """Meta's own answer about the audience and these sessions."""
        observation = UploadObservation(
            custom_audience_id=CUSTOM_AUDIENCE_ID,
            lower_bound=lower,
            upper_bound=upper,
            operation_status_code=200,
            delivery_status_code=200,
            sessions=[
                SessionObservation(session, None, progress, None, None, None, None)
                for session in sessions
            ],
        )
        with self.database.transaction() as connection:
            observations.record(connection, AUDIENCE, observation)

    def refreshes(
        self, day: date = MONDAY, app_id: str | None = None
    ) -> tuple[MatchStatus, Assignment]:
        """The run of a day."""
        with self.database.transaction() as connection:
            return partition_status.refresh(
                connection, AUDIENCE, day, overdue_after=OVERDUE_AFTER, run_id="run", app_id=app_id
            )

    def status(self, day: date = MONDAY) -> MatchStatus:
        """The row that the run of a day computes."""
        return self.refreshes(day)[0]

    def pending(self) -> int:
        """How many events no run has acknowledged."""
        return int(self.scalar("select count(*) from mm.webhook_event where processed_at is null"))

    def due_days(self) -> set[date]:
        """The days that the sensor is to ask for next."""
        with self.database.transaction() as connection:
            return set(connection.scalars(text("select day from mm.match_status_due")))

    def execute(self, statement: str, **values: Any) -> None:
        """A statement in a transaction of its own."""
        with self.database.transaction() as connection:
            connection.execute(text(statement), values)

    def scalar(self, statement: str, **values: Any) -> Any:
        """One value."""
        with self.database.transaction() as connection:
            return connection.scalar(text(statement), values)
