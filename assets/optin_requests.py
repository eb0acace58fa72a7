"""Opt-in requests on Messenger."""

import dagster as dg

from mm_pipelines.consent import optin_request_ledger
from mm_pipelines.consent.conversations import count_inside_window
from mm_pipelines.consent.messenger_events import apply_messages
from mm_pipelines.consent.optin_request_ledger import OutcomeCount
from mm_pipelines.consent.optin_requests import OptInPrompt, OptInSummary, send_optin_requests
from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.long_waits import defer_long_waits, deferral_metadata
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.suppression import SuppressionResource

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("id", "bigint"),
        dg.TableColumn("page_id", "text", "The Page that asked"),
        dg.TableColumn("psid", "text", "The Page-scoped ID of the person"),
        dg.TableColumn("title", "text", "The title shown to the person"),
        dg.TableColumn("payload", "text", "The payload that the answer returns"),
        dg.TableColumn("asked_at", "timestamptz", "When it was reserved, before sending"),
        dg.TableColumn("state", "text", "reserved, sent, unknown, skipped or released"),
        dg.TableColumn("why", "text", "Meta's code and subcode if it was not sent"),
        dg.TableColumn("message_id", "text", "Meta's id of the message"),
        dg.TableColumn("granted_at", "timestamptz", "When the person opted in"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE_BY_DAY,
    deps=[asset_key("messaging_optins")],
    group_name="people",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    metadata={"dagster/table_name": "mm.optin_request", "dagster/column_schema": _COLUMNS},
)
@translate_errors
def optin_requests(
    context: dg.AssetExecutionContext,
    mm_database: DatabaseResource,
    mm_graph_api: GraphApiResource,
    mm_suppression: SuppressionResource,
) -> dg.MaterializeResult:
    """Asks people who wrote to the Page within 24 hours to opt in, once per window.

    First it records in `mm.conversation` who wrote and when. The content of messages is not stored.
    The same title is sent to a person once a week at most. People with a live token and opted-out
    people are excluded. Each request is reserved before it is sent, so two runs cannot ask the same
    person; a request whose answer was lost counts as sent.
    """
    partition = PageDay.of(context)
    page = CONFIG.pages[partition.page]
    messages = apply_messages(
        mm_database.get(), page.page_id, context.run.run_id, mm_suppression.get()
    )
    summary, deferral = OptInSummary(), None
    if page.optin is None:
        context.log.info(f"pages.{partition.page}.optin is not set in mm.yaml: no request is sent")
    else:
        prompt = OptInPrompt(
            title=page.optin.title,
            image_url=page.optin.image_url,
            payload=page.optin.payload,
            cta_text=page.optin.cta,
            timezone=CONFIG.timezone,
        )
        throttle = mm_graph_api.throttle_for_page(partition.page, mm_database.get())
        with (
            defer_long_waits(context, mm_database.get()) as attempt,
            mm_graph_api.client_for_page(partition.page, throttle) as client,
        ):
            send_optin_requests(mm_database.get(), client, page.page_id, prompt, summary)
        deferral = attempt.deferral
    with mm_database.get().transaction() as connection:
        of_day = optin_request_ledger.counts(
            connection, page.page_id, partition.begins_at, partition.ends_at
        )
        people = {
            "messages": messages,
            "people_inside_the_window": count_inside_window(connection, page.page_id),
        }
    return dg.MaterializeResult(
        metadata={**deferral_metadata(deferral), **people, **_metadata(summary, of_day)}
    )


def _metadata(summary: OptInSummary, of_day: list[OutcomeCount]) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(sum(row.requests for row in of_day)),
        "sent": dg.MetadataValue.int(summary.outcomes["sent"]),
        "counted_as_sent": dg.MetadataValue.int(summary.outcomes["unknown"] + summary.abandoned),
        "skipped": dg.MetadataValue.int(summary.outcomes["skipped"]),
        "of_the_day": dg.MetadataValue.md(
            "\n".join(
                [
                    "| state | why | requests |",
                    "|---|---|---:|",
                    *(f"| {row.state} | {row.why} | {row.requests:,} |" for row in of_day),
                ]
            )
        ),
    }
    return metadata
