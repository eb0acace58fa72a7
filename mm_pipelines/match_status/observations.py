"""Answers to polls of an upload's state, made when no webhook arrived."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

_RECORD = text("""
insert into mm.upload_observation
    (audience, custom_audience_id, lower_bound, upper_bound, operation_status_code,
     delivery_status_code)
values
    (:audience, :custom_audience_id, :lower_bound, :upper_bound, :operation_status_code,
     :delivery_status_code)
returning id
""")

_RECORD_SESSION = text("""
insert into mm.session_observation
    (observation_id, session_id, finished, stage, progress, num_received, num_invalid_entries,
     num_matched, end_time)
values
    (:observation_id, :session_id, :finished, :stage, :progress, :num_received,
     :num_invalid_entries, :num_matched, :end_time)
on conflict do nothing
""")


@dataclass(frozen=True)
class SessionObservation:
    """One upload session at Meta (docs/graph-api.md#sessions)."""

    session_id: int
    stage: str | None
    progress: str | None
    num_received: int | None
    num_invalid_entries: int | None
    num_matched: int | None
    end_time: datetime | None

    @property
    def finished(self) -> bool:
        """Whether Meta has processed the whole session.

        Meta documents the names of these fields and not their values: a progress of 100 says it,
        and where there is none, a session that has ended.
        """
        try:
            return float(self.progress or "") >= 100
        except ValueError:
            return self.end_time is not None


@dataclass(frozen=True)
class UploadObservation:
    """The Custom Audience's own fields, and its sessions, at one moment."""

    custom_audience_id: str
    lower_bound: int | None
    upper_bound: int | None
    operation_status_code: int | None
    delivery_status_code: int | None
    sessions: Sequence[SessionObservation]


def record(connection: Connection, audience: str, observation: UploadObservation) -> None:
    """Store an answer, with the time at which it is stored."""
    observation_id = connection.scalar(
        _RECORD,
        {
            "audience": audience,
            "custom_audience_id": observation.custom_audience_id,
            "lower_bound": observation.lower_bound,
            "upper_bound": observation.upper_bound,
            "operation_status_code": observation.operation_status_code,
            "delivery_status_code": observation.delivery_status_code,
        },
    )
    rows = [
        {**vars(session), "finished": session.finished, "observation_id": observation_id}
        for session in observation.sessions
    ]
    if rows:
        connection.execute(_RECORD_SESSION, rows)
