"""Opt-ins and opt-outs on Messenger."""

import dagster as dg

from mm_pipelines.consent.messenger_consent import count_suppressed_recipients
from mm_pipelines.consent.messenger_events import ConsentSummary, apply_consent_events
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.checks import partitioned_check
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG, PAGE, single_partition
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.suppression import SuppressionResource

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("page_id", "text", "The Page"),
        dg.TableColumn("contact_kind", "text", "psid or token"),
        dg.TableColumn("contact", "text", "The Page-scoped ID or the subscription token"),
        dg.TableColumn("stopped_at", "timestamptz", "The latest time of opting out"),
        dg.TableColumn("granted_at", "timestamptz", "The latest time of opting in"),
        dg.TableColumn("lifted_at", "timestamptz", "When a later opt-in lifted the suppression"),
        dg.TableColumn("stopped", "boolean", "Whether the opt-out is the later of the two"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE,
    group_name="people",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/table_name": "mm.messenger_consent", "dagster/column_schema": _COLUMNS},
    check_specs=[
        partitioned_check(
            "every_event_recognized",
            asset="messaging_optins",
            partitions_def=PAGE,
            description="Every event is an opt-in, an opt-out or a RESUME.",
        )
    ],
)
@translate_errors
def messaging_optins(
    context: dg.AssetExecutionContext,
    mm_database: DatabaseResource,
    mm_suppression: SuppressionResource,
) -> dg.MaterializeResult:
    """Applies opt-ins, opt-outs and RESUME events by their own times, whatever their order.

    An opt-in adds its token to `mm.subscription_token` at once. A STOP already suppressed the token
    and the person when the receiver stored it; here it becomes an opt-out request. An opt-in with
    a later time lifts the suppression, and `lifted_at` records when.
    """
    page_id = CONFIG.pages[single_partition(context)].page_id
    summary = apply_consent_events(
        mm_database.get(), page_id, context.run.run_id, mm_suppression.get()
    )
    with mm_database.get().transaction() as connection:
        suppressed = count_suppressed_recipients(connection, page_id)
    if summary.suppressions_lifted:
        context.log.info(
            f"{summary.suppressions_lifted:,} suppressed contacts opted in again: they are "
            "no longer suppressed"
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": summary.events,
            "granted": summary.granted,
            "resumed": summary.resumed,
            "stopped": summary.stopped,
            "of_erased_people": summary.erased,
            "suppressions_lifted": summary.suppressions_lifted,
            "people_suppressed": suppressed,
        },
        check_results=[_every_event_recognized(summary)],
    )


def _every_event_recognized(summary: ConsentSummary) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="every_event_recognized",
        passed=summary.other == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{summary.other:,} events are not about marketing messages or have an unknown "
            "status. They changed nothing. See their payload in mm.webhook_event."
            if summary.other
            else "Every event is an opt-in, an opt-out or a RESUME."
        ),
        metadata={"not_recognized": summary.other},
    )
