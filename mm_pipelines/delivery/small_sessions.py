"""Finds upload sessions that had fewer rows than ``minimum_upload``.

Meta gives tokens only if enough people match "in the upload", which may mean the session
(docs/graph-api.md#q5-the-floor-of-100-matches). So the rows of a small session
are sent again together with others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.delivery.anti_join import IDENTITY, identities
from mm_pipelines.storage import Storage

# Returns the small sessions of a Custom Audience, the newest first, with the positions that Meta
# acknowledged. A session whose repetition was not delivered is returned again.
_FIND = text("""
select session.session_id, delta.path,
       sum(batch.row_count) < delta.row_count as is_split,
       array_agg(batch.first_row order by batch.first_row) as first_rows,
       array_agg(batch.row_count order by batch.first_row) as row_counts
from mm.upload_session as session
join mm.upload_delta as delta on delta.id = session.delta_id
join mm.upload_batch as batch on batch.session_id = session.session_id
left join mm.upload_delta as repetition on repetition.id = session.repeated_by
where delta.custom_audience_id = :custom_audience_id and batch.status = 'acknowledged'
  and (session.repeated_by is null or repetition.closed_at is not null)
group by session.session_id, delta.id
having sum(batch.row_count) < :minimum
order by session.opened_at desc
""")

_MARK_REPEATED = text("""
update mm.upload_session set repeated_by = :delta_id where session_id = any(:session_ids)
""")


@dataclass(frozen=True)
class SmallSession:
    """A session with fewer rows than an upload should have.

    Attributes:
        path: The file of its delta.
        is_split: Whether it contained only a part of its delta, as after a refusal or a restart.
        rows: The acknowledged positions in the file, ascending.
    """

    session_id: int
    path: str
    is_split: bool
    rows: tuple[range, ...]

    def __len__(self) -> int:
        return sum(map(len, self.rows))

    def people(self, storage: Storage) -> pl.DataFrame:
        """EMAIL and PHONE of its rows; no row if the file is gone."""
        if not storage.exists(self.path):
            return pl.DataFrame(schema=dict.fromkeys(IDENTITY, pl.String))
        frame = identities(storage.scan(self.path))
        return pl.concat([frame.slice(part.start, len(part)) for part in self.rows]).collect()


def find(connection: Connection, custom_audience_id: str, minimum: int) -> list[SmallSession]:
    """The sessions with fewer rows than ``minimum``, the newest first."""
    rows = connection.execute(_FIND, {"custom_audience_id": custom_audience_id, "minimum": minimum})
    return [
        SmallSession(
            row.session_id,
            row.path,
            row.is_split,
            tuple(
                range(first, first + count)
                for first, count in zip(row.first_rows, row.row_counts, strict=True)
            ),
        )
        for row in rows
    ]


def mark_repeated(connection: Connection, session_ids: Sequence[int], delta_id: int) -> None:
    """Record the delta that sends the rows of these sessions again."""
    connection.execute(_MARK_REPEATED, {"session_ids": list(session_ids), "delta_id": delta_id})
