"""The processing of a day's batches at Meta, and the match rate."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from mm_pipelines.assets.custom_audience import audience_summary, custom_audience
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.custom_audiences import MATCH_FLOOR, get_custom_audience, list_sessions
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.match_status import observations
from mm_pipelines.match_status import partition_status as statuses
from mm_pipelines.match_status.assignments import Assignment
from mm_pipelines.match_status.computation import MatchStatus
from mm_pipelines.match_status.match_rate import LOWEST_TYPICAL, low_rate
from mm_pipelines.match_status.observations import SessionObservation, UploadObservation
from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration.checks import partitioned_check
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource

_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("audience", "text", "The audience's key in mm.yaml"),
        dg.TableColumn("day", "date", "The day whose list was uploaded"),
        dg.TableColumn("custom_audience_id", "text", "The Custom Audience at Meta"),
        dg.TableColumn("rows_uploaded", "bigint", "Rows of the day that Meta acknowledged"),
        dg.TableColumn("rows_processed", "bigint", "Rows in batches reported as processed"),
        dg.TableColumn("rows_failed", "bigint", "Rows in batches reported with another status"),
        dg.TableColumn(
            "lower_bound", "bigint", "Lower bound of the people matched in the whole audience"
        ),
        dg.TableColumn(
            "upper_bound", "bigint", "Upper bound of the people matched in the whole audience"
        ),
        dg.TableColumn("match_rate_lower", "double precision", "lower_bound ÷ people_acknowledged"),
        dg.TableColumn("match_rate_upper", "double precision", "upper_bound ÷ people_acknowledged"),
        dg.TableColumn("status", "text", "waiting, processing, complete, failed or overdue"),
        dg.TableColumn("last_event_at", "timestamptz", "When the day's newest report arrived"),
        dg.TableColumn("as_of", "timestamptz", "When the row was computed"),
        dg.TableColumn("source", "text", "Where the bounds come from: webhook or poll"),
        dg.TableColumn("batches_delivered", "integer", "Batches that Meta acknowledged"),
        dg.TableColumn("batches_reported", "integer", "Batches that Meta reported on"),
        dg.TableColumn("people_acknowledged", "bigint", "People in the audience at that time"),
        dg.TableColumn(
            "seconds_to_processed",
            "double precision",
            "Longest time from a batch's acknowledgement to its report",
        ),
        dg.TableColumn("deadline_at", "timestamptz", "When a batch without report is overdue"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=AUDIENCE_BY_DAY,
    deps=[asset_key("audience_upload")],
    kinds={"postgres"},
    group_name="status",
    owners=["team:audience"],
    metadata={"dagster/column_schema": _COLUMNS, "dagster/table_name": "mm.match_status"},
    freshness_policy=dg.FreshnessPolicy.time_window(
        warn_window=timedelta(hours=30), fail_window=timedelta(hours=48)
    ),
    check_specs=[
        partitioned_check(
            "every_row_is_accounted_for",
            asset="match_status",
            partitions_def=AUDIENCE_BY_DAY,
            description="Meta reported on every row that it acknowledged.",
        ),
        partitioned_check(
            "above_the_match_floor",
            asset="match_status",
            partitions_def=AUDIENCE_BY_DAY,
            description=f"At least {MATCH_FLOOR} people matched; below that, Meta lists no tokens.",
        ),
        partitioned_check(
            "match_rate_as_usual",
            asset="match_status",
            partitions_def=AUDIENCE_BY_DAY,
            description="The match rate is near the median of the previous 30 days, or at least "
            f"{LOWEST_TYPICAL:.0%} in an audience without a history.",
        ),
        partitioned_check(
            "reported_in_time",
            asset="match_status",
            partitions_def=AUDIENCE_BY_DAY,
            description="No batch is without a report after settings.overdue_hours.",
        ),
        partitioned_check(
            "batches_succeeded",
            asset="match_status",
            partitions_def=AUDIENCE_BY_DAY,
            description="Every report says SUCCESS.",
        ),
    ],
)
@translate_errors
def match_status(
    context: dg.AssetExecutionContext, mm_database: DatabaseResource, mm_graph_api: GraphApiResource
) -> dg.MaterializeResult:
    """Computes how far Meta has processed the day's batches, and the audience's match rate.

    The row follows from the ledger and the stored webhooks alone. If a batch has no report after
    settings.overdue_hours, the asset polls Meta and stores the answer beside the webhooks.
    """
    partition = AudienceDay.of(context)
    status, assignment = _refresh(mm_database, partition, context.run.run_id)
    if status.status == "overdue" and status.custom_audience_id is not None:
        context.log.warning(
            f"{partition.key} is overdue: polling Meta for the state of its uploads"
        )
        try:
            with mm_graph_api.client_for_audience(partition.audience) as client:
                observation = _observe(client, status.custom_audience_id)
        except GraphApiError as error:
            # The row is correct without Meta's answer; a later run polls again.
            context.log.warning(f"Meta could not be polled: {error}")
        else:
            with mm_database.get().transaction() as connection:
                observations.record(connection, partition.audience, observation)
            status, assignment = _refresh(mm_database, partition, context.run.run_id)
    with mm_database.get().transaction() as connection:
        usual = statuses.usual_rate(connection, partition.audience, partition.day)
    # The audience's own page shows what changed.
    context.log_event(
        dg.AssetObservation(
            custom_audience.key,
            partition=partition.audience,
            metadata={"summary": audience_summary(mm_database.get(), partition.audience)},
        )
    )
    return dg.MaterializeResult(
        metadata=_metadata(status, assignment),
        check_results=list(_checks(status, assignment, usual)),
    )


def _refresh(
    database: DatabaseResource, partition: AudienceDay, run_id: str
) -> tuple[MatchStatus, Assignment]:
    with database.get().transaction() as connection:
        return statuses.refresh(
            connection,
            partition.audience,
            partition.day,
            overdue_after=timedelta(hours=CONFIG.settings.overdue_hours),
            run_id=run_id,
            app_id=dg.EnvVar("MM_APP_ID").get_value(),
        )


def _observe(client: GraphApiClient, custom_audience_id: str) -> UploadObservation:
    audience = get_custom_audience(client, custom_audience_id)
    operation, delivery = audience.operation_status, audience.delivery_status
    return UploadObservation(
        custom_audience_id=custom_audience_id,
        lower_bound=audience.approximate_count_lower_bound,
        upper_bound=audience.approximate_count_upper_bound,
        operation_status_code=operation.code if operation else None,
        delivery_status_code=delivery.code if delivery else None,
        sessions=[
            SessionObservation(
                session_id=int(session.session_id),
                stage=session.stage,
                progress=session.progress,
                num_received=session.num_received,
                num_invalid_entries=session.num_invalid_entries,
                num_matched=session.num_matched,
                end_time=session.end_time,
            )
            for session in list_sessions(client, custom_audience_id)
            if session.session_id.isdecimal()
        ],
    )


def _metadata(
    status: MatchStatus, assignment: Assignment
) -> dict[str, dg.MetadataValue | int | float | str]:
    measured: dict[str, int | float | None] = {
        "rows_uploaded": status.rows_uploaded,
        "rows_processed": status.rows_processed,
        "rows_failed": status.rows_failed,
        "rows_unaccounted": status.rows_unaccounted,
        "batches_delivered": status.batches_delivered,
        "batches_reported": status.batches_reported,
        "people_acknowledged": status.people_acknowledged,
        "lower_bound": status.lower_bound,
        "upper_bound": status.upper_bound,
        "match_rate_lower": status.match_rate_lower,
        "match_rate_upper": status.match_rate_upper,
        "seconds_to_processed": status.seconds_to_processed,
        "reports_assigned": assignment.assigned,
        "reports_left_over": assignment.left_over,
    }
    return {
        "dagster/row_count": 1,
        "status": status.status,
        "source": status.source or "none yet",
        **{name: value for name, value in measured.items() if value is not None},
    }


def _checks(
    status: MatchStatus, assignment: Assignment, usual: float | None
) -> Iterator[dg.AssetCheckResult]:
    is_final = status.status in ("complete", "failed", "overdue")
    unaccounted = status.rows_unaccounted
    yield _check(
        "every_row_is_accounted_for",
        passed=not (is_final and (unaccounted or assignment.left_over)),
        good="Meta reported on every row that is due.",
        bad=(
            f"{unaccounted} rows have no report, and {assignment.left_over} reports of this "
            "audience match no batch of ours. Another system may upload to it, or webhooks were "
            "lost. Compare the audience's sessions at Meta with mm.upload_batch."
        ),
        numbers={"rows_unaccounted": unaccounted, "reports_left_over": assignment.left_over},
    )
    yield _check(
        "above_the_match_floor",
        passed=status.upper_bound is None or status.upper_bound >= MATCH_FLOOR,
        good=f"{MATCH_FLOOR} people or more matched, or there is no report yet.",
        bad=(
            f"At most {status.upper_bound} people matched, and below {MATCH_FLOOR} Meta withholds "
            "every token of the audience. Add people to the list, or merge small audiences."
        ),
        numbers={"upper_bound": status.upper_bound},
    )
    low = low_rate(status, usual)
    yield _check(
        "match_rate_as_usual",
        passed=low is None,
        good="The match rate is not low, or not known yet.",
        bad=low or "",
        numbers={"match_rate_lower": status.match_rate_lower, "median": usual},
    )
    yield _check(
        "reported_in_time",
        passed=status.status != "overdue",
        good="No batch is overdue.",
        bad=(
            f"{status.batches_delivered - status.batches_reported} batches have waited more than "
            f"{CONFIG.settings.overdue_hours:g} hours for their report. Check whether webhooks "
            "arrive (`mm webhooks status`). Meta is polled again automatically."
        ),
        numbers={"batches_without_report": status.batches_delivered - status.batches_reported},
    )
    yield _check(
        "batches_succeeded",
        passed=status.status != "failed",
        good="No batch failed.",
        bad=(
            f"{status.rows_failed} rows are in batches that Meta reported as failed; the webhooks' "
            "batch_uploading_status says why. Check the audience in Meta's Ads Manager."
        ),
        numbers={"rows_failed": status.rows_failed},
        severity=dg.AssetCheckSeverity.ERROR,
    )


def _check(
    name: str,
    *,
    passed: bool,
    good: str,
    bad: str,
    numbers: dict[str, int | float | None],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=severity,
        description=good if passed else bad,
        metadata={name: value for name, value in numbers.items() if value is not None},
    )
