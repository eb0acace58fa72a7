"""What people said on Messenger about marketing messages."""

import dagster as dg

from mm_pipelines.consent.messenger_consent import count_suppressed_recipients
from mm_pipelines.consent.messenger_events import OptinSummary, take_in_optins
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("page_id", "text", "The Page"),
        dg.TableColumn("contact_kind", "text", "psid or token"),
        dg.TableColumn("contact", "text", "The Page-scoped ID or the subscription token"),
        dg.TableColumn("stopped_at", "timestamptz", "The latest time of leaving"),
        dg.TableColumn("granted_at", "timestamptz", "The latest time of agreeing"),
        dg.TableColumn("lifted_at", "timestamptz", "When a later agreement lifted a suppression"),
        dg.TableColumn("stopped", "boolean", "Whether the later of the two is leaving"),
    ]
)


@dg.asset(
    partitions_def=PAGE,
    group_name="people",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/table_name": "mm.messenger_consent", "dagster/column_schema": _COLUMNS},
    check_specs=[
        dg.AssetCheckSpec(
            "every_event_is_understood",
            asset="messaging_optins",
            description="Every event says that somebody granted, stopped or resumed.",
        )
    ],
)
def messaging_optins(
    context: dg.AssetExecutionContext, database: DatabaseResource
) -> dg.MaterializeResult:
    """Who granted, stopped and resumed, by the times of their events and not by their order.

    A grant brings its token into `mm.subscription_token` at once. A stop suppresses the token and
    the person in the same transaction, and becomes a request to leave. A grant with a later time
    lifts that, and `lifted_at` says when.
    """
    page_id = CONFIG.pages[single_partition(context)].page_id
    summary = take_in_optins(database.get(), page_id, context.run.run_id)
    with database.get().transaction() as connection:
        suppressed = count_suppressed_recipients(connection, page_id)
    if summary.suppressions_lifted:
        context.log.info(
            f"{summary.suppressions_lifted:,} contacts that had been stopped agreed again: they "
            "are no longer suppressed"
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": summary.events,
            "granted": summary.granted,
            "resumed": summary.resumed,
            "stopped": summary.stopped,
            "suppressions_lifted": summary.suppressions_lifted,
            "people_suppressed": suppressed,
        },
        check_results=[_every_event_is_understood(summary)],
    )


def _every_event_is_understood(summary: OptinSummary) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="every_event_is_understood",
        passed=summary.other == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{summary.other:,} events are about something else than marketing messages, or have "
            "a status that nobody knows. They changed nothing and are kept in mm.webhook_event; "
            "look at their payload."
            if summary.other
            else "Every event says that somebody granted, stopped or resumed."
        ),
        metadata={"not_understood": summary.other},
    )
