"""Finds the Custom Audiences that contain opted-out people, by the digests of `member_digests`.

Two questions cover every case: which audiences contain people who opted out since the last search,
and do uploads that ended since then contain anyone on the list? An audience with a match is due for
`audience_cleanup`. A search that dies is repeated in full.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text

from mm_pipelines.consent import member_digests
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.keys import SuppressionKeys, check_keys
from mm_pipelines.warehouse.database import Database, LockTakenError

_LOCK = "suppression_search"

# A search that takes longer than a second may take a twentieth of the time.
_QUICK = timedelta(seconds=1)
_PAUSE_FACTOR = 20

# Returns the values that were not searched for yet.
_NEW = text("""
select id, digest from mm.suppression
where id > coalesce((select through_id from mm.suppression_search), 0) order by id
""")

# Returns every digest on the list.
_LISTED = text("select digest from mm.suppression")

_ENDED_UPLOADS = """
select known.custom_audience_id, known.page_id, upload.newest,
       coalesce(sweep.through_delta_id, 0) as searched
from mm.custom_audience as known
cross join lateral (
    select max(id) as newest from mm.upload_delta
    where custom_audience_id = known.custom_audience_id and operation = 'add'
      and (completed_at is not null or closed_at is not null)
) as upload
left join mm.suppression_sweep as sweep using (custom_audience_id)
where upload.newest > coalesce(sweep.through_delta_id, 0)
  and exists (select from mm.suppression)
"""

# Returns the audiences with uploads that ended since they were searched.
_UNSEARCHED = text(_ENDED_UPLOADS)

# Returns a Page whose opt-outs or uploads were not searched for yet, if a search may begin.
_DUE = text(f"""
select page_id from (
    select request.page_id, 1 as rank
    from mm.suppression join mm.unsubscribe_request request on request.id = request_id
    where suppression.id = (select max(id) from mm.suppression)
      and suppression.id > coalesce((select through_id from mm.suppression_search), 0)
    union all
    (select page_id, 2 from ({_ENDED_UPLOADS}) as ended limit 1)
) as pending
where not exists (
    select from mm.suppression_search
    where took > :quick and ended_at + took * :pause_factor > now()
)
order by rank limit 1
""")

# Records that a search found opted-out people in audiences.
_FOUND = text("""
insert into mm.suppression_sweep (custom_audience_id, through_delta_id, found_at)
select custom_audience_id, 0, clock_timestamp()
from unnest(cast(:custom_audience_ids as text[])) as found (custom_audience_id)
on conflict (custom_audience_id) do update set found_at = excluded.found_at
""")

# Records the uploads that were searched.
_SEARCHED_UPLOADS = text("""
insert into mm.suppression_sweep (custom_audience_id, through_delta_id)
select * from unnest(cast(:custom_audience_ids as text[]), cast(:delta_ids as bigint[]))
on conflict (custom_audience_id) do update set through_delta_id = excluded.through_delta_id
""")

# Records the end of a search.
_ENDED = text("""
insert into mm.suppression_search (through_id, took) values (:through_id, :took)
on conflict (only_one) do update
set through_id = greatest(mm.suppression_search.through_id, excluded.through_id),
    took = excluded.took, ended_at = clock_timestamp()
""")


@dataclass(frozen=True)
class SearchSummary:
    """What a search did.

    Attributes:
        values: Suppressed values that were searched for in all audiences.
        uploads: Audiences whose ended uploads were searched for everyone on the list.
        audiences: Audiences in which people were found.
    """

    values: int = 0
    uploads: int = 0
    audiences: int = 0


@dataclass(frozen=True)
class _EndedUploads:
    """An audience with uploads after ``searched``, up to ``newest``, that have ended."""

    custom_audience_id: str
    page_id: str
    newest: int
    searched: int


def page_to_search_for(connection: Connection) -> str | None:
    """Return the Page whose opt-outs or uploads call for a search now; None if none do."""
    values = {"quick": _QUICK, "pause_factor": _PAUSE_FACTOR}
    page_id: str | None = connection.scalar(_DUE, values)
    return page_id


def search(
    database: Database, storage: Storage, suppression_keys: SuppressionKeys
) -> SearchSummary:
    """Search all audiences, unless no search is due or another run is searching.

    Raises:
        SuppressionKeyError: Another key is in use.
    """
    with database.transaction() as connection:
        check_keys(connection, suppression_keys)
        if page_to_search_for(connection) is None:
            return SearchSummary()
    try:
        with database.lock(_LOCK):
            return _search(database, storage, suppression_keys)
    except LockTakenError as taken:
        if taken.lock != _LOCK:
            raise
        return SearchSummary()


def _search(
    database: Database, storage: Storage, suppression_keys: SuppressionKeys
) -> SearchSummary:
    began = time.monotonic()
    with database.transaction() as connection:
        new = list(connection.execute(_NEW))
        ended = [_EndedUploads(**row._asdict()) for row in connection.execute(_UNSEARCHED)]
        through_id = max((row.id for row in new), default=0)
    member_digests.refresh(database, storage, suppression_keys)
    try:
        found = _find(database, storage, [row.digest for row in new], ended)
    except FileNotFoundError:
        with database.transaction() as connection:
            files = member_digests.files(connection)
        member_digests.forget_missing(database, storage, files)
        member_digests.refresh(database, storage, suppression_keys)
        found = _find(database, storage, [row.digest for row in new], ended)
    with database.transaction() as connection:
        connection.execute(_FOUND, {"custom_audience_ids": sorted(found)})
        connection.execute(
            _SEARCHED_UPLOADS,
            {
                "custom_audience_ids": [audience.custom_audience_id for audience in ended],
                "delta_ids": [audience.newest for audience in ended],
            },
        )
        took = timedelta(seconds=time.monotonic() - began)
        connection.execute(_ENDED, {"through_id": through_id, "took": took})
    return SearchSummary(len(new), len(ended), len(found))


def _find(
    database: Database, storage: Storage, new: Sequence[str], ended: Collection[_EndedUploads]
) -> set[str]:
    """The Custom Audiences with a new value in any upload, or any value in an ended upload."""
    with database.transaction() as connection:
        files = member_digests.files(connection)
        listed = list(connection.scalars(_LISTED)) if ended else []
    found = set(member_digests.matches(storage, files, new)["custom_audience_id"])
    unsearched = {audience.custom_audience_id: audience.searched for audience in ended}
    of = [file for file in files if file.custom_audience_id in unsearched]
    for custom_audience_id, delta_id, _ in member_digests.matches(storage, of, listed).iter_rows():
        if delta_id > unsearched[custom_audience_id]:
            found.add(custom_audience_id)
    return found
