"""The opt-outs of a Page."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from mm_pipelines.consent import audience_cleanup, opt_out_requests
from mm_pipelines.consent.audience_cleanup import DueCleanup, remove_opted_out_members
from mm_pipelines.consent.audience_search import page_to_search_for, search
from mm_pipelines.consent.opt_out_requests import StateCount
from mm_pipelines.consent.opt_outs import (
    OptOutPlan,
    OptOutSummary,
    receive_list,
    suppress,
    unsubscribe_at_meta,
)
from mm_pipelines.delivery import open_uploads
from mm_pipelines.delivery.errors import DeliveryError
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.lists.errors import ListError
from mm_pipelines.lists.location import list_url
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.orchestration.checks import partitioned_check
from mm_pipelines.orchestration.deferrals import Deferral
from mm_pipelines.orchestration.delivery_plans import delivery_context
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.long_waits import (
    defer_long_waits,
    deferral_metadata,
    is_long_wait,
)
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.suppression import suppression_list as suppressed
from mm_pipelines.suppression.keys import SuppressionKeys, entries_under_previous_key
from mm_pipelines.warehouse.database import Database, LockTakenError

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("id", "bigint"),
        dg.TableColumn("page_id", "text", "The Page that the person opts out of"),
        dg.TableColumn("phone", "text", "While open: raw or hashed"),
        dg.TableColumn("email", "text", "While open: raw or hashed"),
        dg.TableColumn("psid", "text", "While open: the Page-scoped ID"),
        dg.TableColumn("subscriber_token", "text", "While open: the subscription token"),
        dg.TableColumn("source", "text", "list, table, command, stop, erasure or audience"),
        dg.TableColumn("requested_at", "timestamptz", "When the person asked"),
        dg.TableColumn("state", "text", "received, sent, confirmed or rejected"),
        dg.TableColumn("why", "text", "Why rejected or still open; ignored fields"),
        dg.TableColumn("settled_at", "timestamptz", "When it was confirmed or rejected"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    partitions_def=PAGE_BY_DAY,
    group_name="people",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    metadata={"dagster/table_name": "mm.unsubscribe_request", "dagster/column_schema": _COLUMNS},
    check_specs=[
        partitioned_check(
            "all_opt_outs_done",
            asset="unsubscribes",
            partitions_def=PAGE_BY_DAY,
            description="The Page has no open opt-out, and no audience contains opted-out people.",
        ),
        partitioned_check(
            "no_request_rejected",
            asset="unsubscribes",
            partitions_def=PAGE_BY_DAY,
            description="This run rejected no request.",
        ),
        partitioned_check(
            "everyone_removed",
            asset="unsubscribes",
            partitions_def=PAGE_BY_DAY,
            description="Meta refused no removal from the Page's audiences for being too small.",
        ),
    ],
)
@translate_errors
def unsubscribes(
    context: dg.AssetExecutionContext,
    mm_database: DatabaseResource,
    mm_storage: StorageResource,
    mm_graph_api: GraphApiResource,
    mm_suppression: SuppressionResource,
) -> dg.MaterializeResult:
    """Suppresses and unsubscribes opted-out people and removes them from the Page's audiences.

    The run reads the day's list, then carries out all open requests of the Page, whatever their
    day. A step that has to wait or fails does not stop the remaining steps: long waits are
    deferred, then the first other error is raised.
    """
    partition = PageDay.of(context)
    plan = _plan(partition.page, mm_suppression.get())
    summary = OptOutSummary()
    errors: list[Exception] = []
    with _collected(errors):
        receive_list(mm_database.get(), _list_url(partition), plan, partition.day, summary)
    opt_outs = suppress(mm_database.get(), plan, summary)
    if opt_outs:
        with _collected(errors):
            throttle = mm_graph_api.throttle_for_page(partition.page, mm_database.get())
            with mm_graph_api.client_for_page(partition.page, throttle) as client:
                unsubscribe_at_meta(mm_database.get(), client, opt_outs, plan, summary)
    with _collected(errors):
        search(mm_database.get(), mm_storage.get(), mm_suppression.get())
    removed = {}
    for due in _due_cleanups(mm_database, partition.page):
        with _collected(errors):
            removed[due.audience] = _clean_up(
                context, partition, due, mm_database, mm_storage, mm_graph_api, mm_suppression
            )
    deferral = _defer_or_raise(context, mm_database.get(), errors)
    with mm_database.get().transaction() as connection:
        states = opt_out_requests.counts(connection, plan.page_id)
        people_suppressed = suppressed.count(connection)
        under_previous_key = entries_under_previous_key(connection, plan.suppression_keys)
        search_pending = page_to_search_for(connection) is not None
        parked = open_uploads.parked_people(connection, _audiences_of(partition.page))
    return dg.MaterializeResult(
        metadata={
            **deferral_metadata(deferral),
            **_metadata(summary, states, removed),
            "emails_and_phones_suppressed": dg.MetadataValue.int(people_suppressed),
            "entries_under_previous_key": dg.MetadataValue.int(under_previous_key),
            "parked_people": dg.MetadataValue.int(parked),
        },
        check_results=[
            _all_opt_outs_done(
                states, _due_cleanups(mm_database, partition.page), search_pending=search_pending
            ),
            _no_request_rejected(summary),
            _everyone_removed(parked),
        ],
    )


@contextmanager
def _collected(errors: list[Exception]) -> Iterator[None]:
    """Collect an expected error, so that the remaining steps still run."""
    try:
        yield
    except (ListError, GraphApiError, DeliveryError, LockTakenError, dg.Failure) as error:
        errors.append(error)


def _defer_or_raise(
    context: dg.AssetExecutionContext, database: Database, errors: Sequence[Exception]
) -> Deferral | None:
    """Defer the first long wait among the errors; raise the first other error."""
    waits = [error for error in errors if is_long_wait(error, context.retry_number)]
    with defer_long_waits(context, database) as attempt:
        if waits:
            raise waits[0]
    for error in errors:
        if error not in waits:
            raise error
    return attempt.deferral


def _audiences_of(page: str) -> list[str]:
    return [key for key, audience in CONFIG.audiences.items() if audience.page == page]


def _plan(page: str, keys: SuppressionKeys) -> OptOutPlan:
    configured = CONFIG.pages[page]
    countries = {CONFIG.audiences[key].default_country for key in _audiences_of(page)}
    common = countries.pop() if len(countries) == 1 else None
    return OptOutPlan(
        page_id=configured.page_id,
        suppression_keys=keys,
        # If all audiences of the Page share a country, it is the default for opt-outs too.
        default_country=configured.unsubscribes.default_country or common,
        chunk=CONFIG.settings.unsubscribe_chunk,
    )


def _list_url(partition: PageDay) -> str:
    template = CONFIG.pages[partition.page].unsubscribes.path
    return list_url(template, CONFIG.directory, page=partition.page, day=partition.day)


def _due_cleanups(database: DatabaseResource, page: str) -> list[DueCleanup]:
    with database.get().transaction() as connection:
        return [
            due for due in audience_cleanup.due(connection) if due.audience in _audiences_of(page)
        ]


def _clean_up(
    context: dg.AssetExecutionContext,
    partition: PageDay,
    due: DueCleanup,
    database: DatabaseResource,
    storage: StorageResource,
    graph_api: GraphApiResource,
    suppression: SuppressionResource,
) -> int:
    throttle = graph_api.throttle_for_audience(due.audience, database.get())
    with graph_api.client_for_audience(due.audience, throttle) as client:
        delivery = delivery_context(database, storage, client, context.log.info)
        return remove_opted_out_members(delivery, due, suppression.get(), partition.day)


def _metadata(
    summary: OptOutSummary, states: Sequence[StateCount], removed: dict[str, int]
) -> dict[str, dg.MetadataValue]:
    counts = {
        "dagster/row_count": sum(state.requests for state in states),
        "new_from_list": summary.received,
        "newly_suppressed": summary.suppressed,
        "confirmed": summary.confirmed,
        "rejected": summary.rejected,
        "opted_in_again": summary.overtaken,
        "unresolved": summary.unresolved,
        "calls_to_unsubscribe": summary.calls,
        "removed_from_audiences": sum(removed.values()),
    }
    metadata: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.int(count) for name, count in counts.items()
    }
    if summary.rows_in_list is not None:
        metadata["rows_in_list"] = dg.MetadataValue.int(summary.rows_in_list)
    metadata["requests_so_far"] = dg.MetadataValue.md(
        "\n".join(
            [
                "| state | why | requests |",
                "|---|---|---:|",
                *(f"| {row.state} | {row.why or ''} | {row.requests:,} |" for row in states),
            ]
        )
    )
    if summary.by_messenger_only:
        metadata["opted_out_by_messenger_only"] = dg.MetadataValue.md(
            f"{summary.by_messenger_only:,} people opted out by PSID, token or STOP. Their "
            "tokens are suppressed. Meta does not link these to an e-mail or phone, so **lists "
            "cannot be filtered by them**, and they may remain in a Custom Audience."
        )
    return metadata


def _all_opt_outs_done(
    states: Sequence[StateCount], due: Sequence[DueCleanup], *, search_pending: bool
) -> dg.AssetCheckResult:
    waiting = sum(row.requests for row in states if row.state in ("received", "sent"))
    audiences = ", ".join(cleanup.audience for cleanup in due)
    sentences = []
    if waiting:
        sentences.append(
            f"{waiting:,} requests are open. Their people are suppressed; the next run continues "
            "at Meta. See `why` in mm.unsubscribe_request."
        )
    if audiences:
        sentences.append(f"{audiences} contain opted-out people. Materialize unsubscribes again.")
    if search_pending:
        sentences.append("The audiences were not searched for the newest opt-outs yet.")
    return dg.AssetCheckResult(
        check_name="all_opt_outs_done",
        passed=not sentences,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(sentences) or "All opt-outs of this Page are carried out.",
        metadata={"open_requests": waiting, "audiences_to_clean_up": len(due)},
    )


def _no_request_rejected(summary: OptOutSummary) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="no_request_rejected",
        passed=summary.rejected == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{summary.rejected:,} requests could not be carried out. `why` in "
            "mm.unsubscribe_request has the reasons. Correct the source and add them again."
            if summary.rejected
            else "Every request is usable."
        ),
        metadata={"rejected": summary.rejected},
    )


def _everyone_removed(parked: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="everyone_removed",
        passed=parked == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{parked:,} people stay in Custom Audiences of this Page, because Meta refuses a "
            "removal that leaves too few people. The suppression list excludes opted-out people. "
            "Every upload of the audience tries the removal again; see `mm uploads`."
            if parked
            else "No removal waits for a larger audience."
        ),
        metadata={"parked_people": parked},
    )
