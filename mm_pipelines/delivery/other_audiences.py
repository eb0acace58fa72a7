"""Counts the people of a list who are members of audiences.

Nothing is locked: a membership file that another run replaces meanwhile is read in its new form.
"""

import polars as pl

from mm_pipelines.delivery import custom_audience, membership
from mm_pipelines.delivery.anti_join import IDENTITY, identities
from mm_pipelines.delivery.membership import Members
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

_ATTEMPTS = 3


def count_members(
    database: Database, storage: Storage, people: pl.LazyFrame, *, except_audience: str = ""
) -> dict[str, int]:
    """How many members with these identifiers each recorded audience has, by key.

    People whose upload was sent and not answered count as members. Each membership is read once.

    Args:
        database: The ledger.
        storage: Where the members are.
        people: EMAIL and PHONE, hashed as payloads are, "" or absent where unknown.
        except_audience: An audience that is not asked.

    Raises:
        FileNotFoundError: A membership file is missing, and none replaced it.
    """
    with database.transaction() as connection:
        targets = custom_audience.all_recorded(connection)
    wanted = identities(people).unique().collect()
    counts = {
        target.audience: _count(database, storage, target.custom_audience_id, wanted)
        for target in targets
        if target.audience != except_audience
    }
    return {audience: count for audience, count in counts.items() if count}


def _count(
    database: Database, storage: Storage, custom_audience_id: str, wanted: pl.DataFrame
) -> int:
    for attempt in range(_ATTEMPTS):
        with database.transaction() as connection:
            members = membership.members_of(connection, custom_audience_id, with_uncertain=True)
        try:
            return _members_among(storage, members, wanted)
        except FileNotFoundError:
            # Another run has replaced the file since its path was read.
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _members_among(storage: Storage, members: Members, wanted: pl.DataFrame) -> int:
    named = pl.any_horizontal(
        (pl.col(name) != "") & pl.col(name).is_in(wanted[name].implode()) for name in IDENTITY
    )
    added = members.added(storage).filter(named).collect(engine="streaming")
    if added.is_empty():
        return 0
    removed = members.removed(storage).filter(named).collect(engine="streaming")
    newest = added.group_by(IDENTITY).agg(pl.col("change").max())
    removals = removed.group_by(IDENTITY).agg(removed_by=pl.col("change").max())
    changes = newest.join(removals, on=IDENTITY, how="left")
    return changes.filter(pl.col("change") > pl.col("removed_by").fill_null(0)).height
