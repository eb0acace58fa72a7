"""People who asked to be erased."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from mm_pipelines.consent.erasure import receipts, requests
from mm_pipelines.consent.erasure.erase import ErasurePlan, erase
from mm_pipelines.consent.erasure.receipts import OpenEntries
from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource

_ANSWERED_WITHIN = timedelta(days=1)

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("request_id", "bigint", "The row of mm.erasure_request"),
        dg.TableColumn("kind", "text", "table, file, page or custom_audience"),
        dg.TableColumn("place", "text", "The table, file, Page id or Custom Audience id"),
        dg.TableColumn("found", "bigint", "The rows of the person that were found"),
        dg.TableColumn("removed_at", "timestamptz", "When they were removed here"),
        dg.TableColumn("accepted_at", "timestamptz", "When Meta accepted our request"),
        dg.TableColumn("outcome", "text", "Why it ended otherwise, or what was ignored"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    group_name="people",
    owners=["team:audience"],
    kinds={"postgres"},
    metadata={"dagster/table_name": "mm.erasure_receipt", "dagster/column_schema": _COLUMNS},
    check_specs=[
        dg.AssetCheckSpec(
            "answered_in_time",
            asset=asset_key("erasures"),
            description="Meta answered every request of an erasure, and the files are removed.",
        )
    ],
)
@translate_errors
def erasures(
    context: dg.AssetExecutionContext,
    mm_database: DatabaseResource,
    mm_storage: StorageResource,
    mm_suppression: SuppressionResource,
) -> dg.MaterializeResult:
    """Removes people named in `mm.erasure_request` from every table, and keeps receipts.

    Pages and Custom Audiences are asked by opt-outs, which `unsubscribes` carries out. A receipt
    contains no identifier: what was found where, when it was removed, and when Meta accepted each
    request. Files with hashes are immutable; `retention` removes them.
    """
    summary = erase(
        mm_database.get(), mm_storage.get(), ErasurePlan.of(CONFIG, mm_suppression.get())
    )
    with mm_database.get().transaction() as connection:
        states = requests.counts(connection)
        waiting = receipts.open_entries(connection)
    context.log.info(
        f"{summary.removed:,} people removed, {summary.completed:,} receipts completed"
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(states.values()),
            "removed": summary.removed,
            "rejected": summary.rejected,
            "completed": summary.completed,
            "requests_open": states.get("received", 0) + states.get("removed", 0),
        },
        check_results=[_answered_in_time(waiting)],
    )


def _answered_in_time(waiting: Sequence[OpenEntries]) -> dg.AssetCheckResult:
    now = datetime.now(UTC)
    limits = {"file": timedelta(days=CONFIG.settings.payload_days + 1)}
    late = [
        entry for entry in waiting if now - entry.since > limits.get(entry.kind, _ANSWERED_WITHIN)
    ]
    listed = "\n".join(
        f"- {entry.kind} {entry.place}: {entry.people:,} people since {entry.since:%Y-%m-%d %H:%M}"
        for entry in late
    )
    return dg.AssetCheckResult(
        passed=not late,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            "These entries of receipts are still open. For Pages and Custom Audiences see the last "
            f"run of unsubscribes, for files mm uploads and the last run of retention.\n{listed}"
            if late
            else "No entry of a receipt is late."
        ),
        metadata={"open_entries": len(waiting), "late_entries": len(late)},
    )
