"""Finds the audiences that people are members of."""

import polars as pl

from mm_pipelines.delivery import custom_audience, delta_file, membership
from mm_pipelines.delivery.anti_join import identities
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database


def audiences_with(
    database: Database, storage: Storage, leaving: pl.LazyFrame
) -> dict[CustomAudience, int]:
    """Every recorded audience with members who have these identifiers, and how many.

    People whose upload was sent and not answered count as members.
    """
    with database.transaction() as connection:
        targets = [
            (
                target,
                membership.members_of(connection, target.custom_audience_id, with_uncertain=True),
            )
            for target in custom_audience.all_recorded(connection)
        ]
    counts = {
        target: delta_file.leaving_people(storage, identities(leaving), members).count()
        for target, members in targets
        if members.rows_to_read
    }
    return {target: count for target, count in counts.items() if count}
