"""Who wrote to a Page."""

import dagster as dg

from mm_pipelines.consent.conversations import count_inside_window
from mm_pipelines.consent.messenger_events import take_in_messages
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("page_id", "text", "The Page"),
        dg.TableColumn("psid", "text", "The Page-scoped ID of who wrote"),
        dg.TableColumn("last_message_at", "timestamptz", "When last; what is not kept"),
        dg.TableColumn("timezone", "text", "Theirs, where known"),
        dg.TableColumn("asked_at", "timestamptz", "When we last asked them to opt in"),
    ]
)


@dg.asset(
    partitions_def=PAGE,
    group_name="people",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/table_name": "mm.conversation", "dagster/column_schema": _COLUMNS},
)
def conversations(
    context: dg.AssetExecutionContext, database: DatabaseResource
) -> dg.MaterializeResult:
    """Who wrote to the Page and when last: the 24 hours after it are when they may be asked.

    What they wrote is not stored anywhere.
    """
    page_id = CONFIG.pages[single_partition(context)].page_id
    events = take_in_messages(database.get(), page_id, context.run.run_id)
    with database.get().transaction() as connection:
        inside = count_inside_window(connection, page_id)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": events, "people_inside_the_window": inside}
    )
