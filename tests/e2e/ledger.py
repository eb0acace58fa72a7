"""What must hold of the database when a flow has ended, however often its parts were killed."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.webhook_event import UPLOAD_STATUS

# What is still to come by itself, by count: nothing of it may be left.
_AWAITED = {
    "runs that wait or work": """
        select count(*) from dagster.runs where status not in ('SUCCESS', 'FAILURE', 'CANCELED')
    """,
    "backfills under way": """
        select count(*) from dagster.bulk_actions
        where status in ('REQUESTED', 'CANCELING', 'FAILING')
    """,
    "events that no asset has acknowledged": """
        select count(*) from mm.webhook_event where processed_at is null
    """,
    "partitions whose status is to be computed again": """
        select count(*) from mm.match_status_due
    """,
    "partitions that are not complete": """
        select :partitions - count(*) from mm.match_status where status = 'complete'
    """,
}

# What went wrong, by count.
_FAULTS = {
    "reports that are not a batch's, or more than one's": f"""
        select count(*) from mm.webhook_event as event where field = '{UPLOAD_STATUS}' and 1 <> (
            select count(*) from mm.upload_batch where reported_event_id = event.id
        )
    """,
    "reports that were left over": """
        select count(*) from mm.webhook_event where left_over_at is not null
    """,
    # A refused batch was divided, and a rejected one is a single row that Meta refuses.
    "batches that Meta did not answer": """
        select count(*) from mm.upload_batch
        where status not in ('acknowledged', 'refused', 'rejected')
    """,
    "batches without a report": """
        select count(*) from mm.upload_batch
        where status = 'acknowledged' and reported_event_id is null
    """,
    "deltas that were not delivered whole, or doubly": """
        select count(*) from mm.upload_delta as delta
        where completed_at is null or operation <> 'add' or row_count <> (
            select coalesce(sum(coalesce(new_people, row_count)), 0) from mm.upload_batch
            where delta_id = delta.id and status in ('acknowledged', 'rejected')
        )
    """,
    "partitions whose status is not its batches'": """
        select count(*) from mm.match_status full join (
            select audience, day, sum(row_count) as rows, count(*) as batches,
                   count(reported_event_id) as reported
            from mm.upload_batch where status = 'acknowledged' group by audience, day
        ) as reported using (audience, day)
        where (status, rows_uploaded, rows_processed, rows_failed, batches_delivered,
               batches_reported)
            is distinct from ('complete', rows, rows, 0, batches, reported)
    """,
    "answers that Meta had to be asked for": "select count(*) from mm.upload_observation",
}

# What stays as it is when the flow is run again: all but the moment of computing.
_KEPT = {
    "webhook_event": "select * from mm.webhook_event order by id",
    "upload_batch": "select * from mm.upload_batch order by session_id, batch_seq",
    "match_status": """
        select audience, day, to_jsonb(state) - 'as_of' from mm.match_status as state
        order by audience, day
    """,
    "conversation": "select * from mm.conversation order by page_id, psid",
}

# A day's row has the bounds of its newest report, and the people by then: the audience's final word
# is in the row of the day that was reported last.
_FINAL = """
select distinct on (batch.audience) known.custom_audience_id, status.lower_bound,
       status.upper_bound, max(status.people_acknowledged) over (partition by batch.audience)
           as people
from mm.upload_batch as batch
join mm.webhook_event as event on event.id = batch.reported_event_id
join mm.match_status as status using (audience, day)
join mm.custom_audience as known using (audience)
order by batch.audience, event.event_time desc
"""


class Ledger:
    """The database of a running stack, asked for counts only: no personal data are shown."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    def close(self) -> None:
        """Close the connections."""
        self._database.dispose()

    def awaited(self, partitions: int) -> dict[str, int]:
        """What is still to come, without what is not."""
        return self._counts(_AWAITED, partitions=partitions)

    def faults(self) -> dict[str, int]:
        """What went wrong; nothing is what is hoped for."""
        return self._counts(_FAULTS)

    def not_uploaded(self, partitions: list[str]) -> list[str]:
        """The partitions of which no delta was delivered to its end."""
        delivered = """
            select audience || '|' || day from mm.upload_delta where completed_at is not null
        """
        with self._database.transaction() as connection:
            there = set(connection.scalars(text(delivered)))
        return [partition for partition in partitions if partition not in there]

    def count(self, field: str) -> int:
        """How many events of a field are stored."""
        statement = "select count(*) as n from mm.webhook_event where field = :field"
        return self._counts({"n": statement}, field=field).get("n", 0)

    def writers(self) -> int:
        """How many people are known to have written."""
        return self._counts({"n": "select count(*) from mm.conversation"}).get("n", 0)

    def final(self) -> Mapping[str, Any]:
        """The last word on each Custom Audience, by its id."""
        with self._database.transaction() as connection:
            return {row.custom_audience_id: row for row in connection.execute(text(_FINAL))}

    def kept(self) -> dict[str, Any]:
        """Everything that running the flow again must not change."""
        with self._database.transaction() as connection:
            return {
                name: [tuple(row) for row in connection.execute(text(statement))]
                for name, statement in _KEPT.items()
            }

    def _counts(self, statements: Mapping[str, str], **values: object) -> dict[str, int]:
        with self._database.transaction() as connection:
            counted = {
                name: int(connection.scalar(text(statement), values) or 0)
                for name, statement in statements.items()
            }
        return {name: count for name, count in counted.items() if count}
