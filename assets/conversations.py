"""The people who wrote to a Page."""

import dagster as dg

from mm_pipelines.consent.conversations import count_inside_window
from mm_pipelines.consent.messenger_events import apply_messages
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.suppression import SuppressionResource

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("page_id", "text", "The Page"),
        dg.TableColumn("psid", "text", "The Page-scoped ID of the sender"),
        dg.TableColumn(
            "last_message_at", "timestamptz", "Time of the last message, never its content"
        ),
        dg.TableColumn("timezone", "text", "The person's time zone, if known"),
        dg.TableColumn("asked_at", "timestamptz", "Time of the last opt-in request"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE,
    group_name="people",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/table_name": "mm.conversation", "dagster/column_schema": _COLUMNS},
)
@translate_errors
def conversations(
    context: dg.AssetExecutionContext,
    mm_database: DatabaseResource,
    mm_suppression: SuppressionResource,
) -> dg.MaterializeResult:
    """Records when each person last wrote to the Page; an opt-in request is allowed for 24 hours.

    The content of messages is not stored.
    """
    page_id = CONFIG.pages[single_partition(context)].page_id
    events = apply_messages(mm_database.get(), page_id, context.run.run_id, mm_suppression.get())
    with mm_database.get().transaction() as connection:
        inside = count_inside_window(connection, page_id)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": events, "people_inside_the_window": inside}
    )
