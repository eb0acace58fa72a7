"""Removes the people of a list from an audience."""

import hashlib

import dagster as dg

from mm_pipelines.assets.audience_upload import LEDGER_COLUMNS
from mm_pipelines.assets.custom_audience import custom_audience
from mm_pipelines.delivery.other_audiences import count_members
from mm_pipelines.delivery.removal_lists import RemovalList, remove_listed
from mm_pipelines.lists import ListMissingError, RowSource, inspect_list
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.delivery_plans import delivery_context
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.long_waits import defer_long_waits, deferred_result
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.payload import HashedPayload, build_hashed_payload
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.storage import Storage


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=AUDIENCE_BY_DAY,
    deps=[custom_audience],
    group_name="delivery",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    metadata={"dagster/table_name": "mm.removal_batch", "dagster/column_schema": LEDGER_COLUMNS},
)
@translate_errors
def audience_removals(
    context: dg.AssetExecutionContext,
    mm_database: DatabaseResource,
    mm_storage: StorageResource,
    mm_graph_api: GraphApiResource,
) -> dg.MaterializeResult:
    """Removes the people of the day's removal lists from the audience.

    ``removals`` of the audience in mm.yaml is a list for it alone; ``removals`` at the top level is
    for every audience. Only members by our own record are sent to Meta. While Meta refuses a
    removal because the audience is small, its people are ``parked_people``.
    """
    partition = AudienceDay.of(context)
    lists = _lists(partition, mm_storage.get())
    if not lists:
        context.log.info("There is no removal list of that day")
        return dg.MaterializeResult(metadata={"dagster/row_count": 0, "lists": 0})
    listed = RemovalList(
        audience=partition.audience,
        day=partition.day,
        source_sha256=hashlib.sha256("".join(p.sha256 for p in lists).encode()).hexdigest(),
        paths=tuple(payload.path for payload in lists),
    )
    throttle = mm_graph_api.throttle_for_audience(partition.audience, mm_database.get())
    with (
        defer_long_waits(context, mm_database.get()) as attempt,
        mm_graph_api.client_for_audience(partition.audience, throttle) as client,
    ):
        delivery = delivery_context(mm_database, mm_storage, client, context.log.info)
        summary = remove_listed(delivery, listed)
    if attempt.deferral is not None:
        return deferred_result(attempt.deferral)
    elsewhere = count_members(
        mm_database.get(),
        mm_storage.get(),
        listed.people(mm_storage.get()),
        except_audience=partition.audience,
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": summary.removed_people,
            "lists": len(lists),
            "people_listed": sum(payload.accepted for payload in lists),
            "rows_rejected": sum(payload.rejected for payload in lists),
            "removed_people": summary.removed_people,
            "parked_people": summary.parked_people,
            "people_in_audience": summary.people_in_audience,
            # If the list is for all audiences, the partition of each removes them there.
            "still_in_other_audiences": elsewhere,
            "seconds_waited_for_throttle": round(throttle.waiting.seconds_waited, 1),
        }
    )


def _lists(partition: AudienceDay, storage: Storage) -> list[HashedPayload]:
    """The day's existing lists, hashed."""
    hashed = (_hashed(source, partition, storage) for source in partition.removal_lists)
    return [payload for payload in hashed if payload is not None]


def _hashed(source: RowSource, partition: AudienceDay, storage: Storage) -> HashedPayload | None:
    default_country = CONFIG.audiences[partition.audience].default_country
    try:
        # Which reading of a bare phone number is right, only the whole list shows.
        report = inspect_list(source, default_country=default_country)
    except ListMissingError:
        return None
    return build_hashed_payload(
        source,
        storage,
        folder=f"removals/{partition.audience}/{partition.day}",
        default_country=default_country,
        phone_convention=report.phone_spellings.convention(),
        expected_fingerprint=report.fingerprint,
    )
