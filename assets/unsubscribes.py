"""People who leave a Page."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from mm_pipelines.assets.audience_upload import sending
from mm_pipelines.consent import opt_out_requests, sweeps
from mm_pipelines.consent.opt_out_requests import StateCount
from mm_pipelines.consent.opt_outs import (
    LeavingPlan,
    LeavingSummary,
    receive_list,
    suppress,
    unsubscribe_at_meta,
)
from mm_pipelines.consent.sweeps import DueSweep, sweep
from mm_pipelines.delivery.errors import DeliveryError
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.lists.errors import ListError
from mm_pipelines.lists.location import list_url
from mm_pipelines.orchestration.failures import meta_failures
from mm_pipelines.partitions import CONFIG, PAGE_BY_DAY, PageDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.suppression import suppression_list as suppressed
from mm_pipelines.suppression.suppression_list import SuppressionKeyError
from mm_pipelines.warehouse.database import LockTakenError

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("id", "bigint"),
        dg.TableColumn("page_id", "text", "The Page that the person leaves"),
        dg.TableColumn("phone", "text", "Until settled: as written, or hashed"),
        dg.TableColumn("email", "text", "Until settled: as written, or hashed"),
        dg.TableColumn("psid", "text", "Until settled: the Page-scoped ID"),
        dg.TableColumn("subscriber_token", "text", "Until settled: the subscription token"),
        dg.TableColumn("source", "text", "list, table, command or stop"),
        dg.TableColumn("requested_at", "timestamptz", "When the person asked"),
        dg.TableColumn("state", "text", "received, sent, confirmed or rejected"),
        dg.TableColumn("why", "text", "Why rejected or still open, or what was left aside"),
        dg.TableColumn("settled_at", "timestamptz", "When it was confirmed or rejected"),
    ]
)


@dg.asset(
    partitions_def=PAGE_BY_DAY,
    group_name="people",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    metadata={"dagster/table_name": "mm.unsubscribe_request", "dagster/column_schema": _COLUMNS},
    check_specs=[
        dg.AssetCheckSpec(
            "everybody_has_left",
            asset="unsubscribes",
            description="No request of the Page is open, and no audience is left to look through.",
        ),
        dg.AssetCheckSpec(
            "every_request_names_somebody",
            asset="unsubscribes",
            description="This run had to reject no request.",
        ),
    ],
)
def unsubscribes(
    context: dg.AssetExecutionContext,
    database: DatabaseResource,
    storage: StorageResource,
    graph_api: GraphApiResource,
    suppression: SuppressionResource,
) -> dg.MaterializeResult:
    """Everybody who asked to leave the Page: suppressed, unsubscribed, out of its audiences.

    All open requests of the Page are carried out, whichever day they came, and the day's list is
    read first. What fails with one of Meta's doors does not keep the others shut: the failure is
    reported at the end.
    """
    partition = PageDay.of(context)
    plan = _plan(partition.page, suppression.get())
    summary = LeavingSummary()
    trouble: list[Exception] = []
    try:
        with _noting(trouble):
            receive_list(database.get(), _list_url(partition), plan, partition.day, summary)
        leavers = suppress(database.get(), plan, summary)
    except SuppressionKeyError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    if leavers:
        with _noting(trouble):
            throttle = graph_api.throttle_for_page(partition.page, database.get())
            with graph_api.client_for_page(partition.page, throttle) as client:
                unsubscribe_at_meta(database.get(), client, leavers, plan, summary)
    removed = {}
    for due in _sweeps_due(database, partition.page):
        with _noting(trouble):
            removed[due.audience] = _sweep(
                context, partition, due, database, storage, graph_api, suppression
            )
    with meta_failures(context):
        if trouble:
            raise trouble[0]
    with database.get().transaction() as connection:
        states = opt_out_requests.counts(connection, plan.page_id)
        people_suppressed = suppressed.count(connection)
    return dg.MaterializeResult(
        metadata={
            **_metadata(summary, states, removed),
            "emails_and_phones_suppressed": dg.MetadataValue.int(people_suppressed),
        },
        check_results=[
            _everybody_has_left(states, _sweeps_due(database, partition.page)),
            _every_request_names_somebody(summary),
        ],
    )


@contextmanager
def _noting(trouble: list[Exception]) -> Iterator[None]:
    """Keep what goes wrong for the end, so that the next step is taken all the same."""
    try:
        yield
    except ListError as error:
        trouble.append(dg.Failure(str(error), allow_retries=False))
    except (GraphApiError, DeliveryError, LockTakenError, dg.Failure) as error:
        trouble.append(error)


def _plan(page: str, key: bytes) -> LeavingPlan:
    configured = CONFIG.pages[page]
    countries = {
        audience.default_country for audience in CONFIG.audiences.values() if audience.page == page
    }
    common = countries.pop() if len(countries) == 1 else None
    return LeavingPlan(
        page_id=configured.page_id,
        suppression_key=key,
        # Where all of a Page's audiences are of one country, so are those who leave it.
        default_country=configured.unsubscribes.default_country or common,
        chunk=CONFIG.settings.unsubscribe_chunk,
    )


def _list_url(partition: PageDay) -> str:
    template = CONFIG.pages[partition.page].unsubscribes.path
    return list_url(template, CONFIG.directory, page=partition.page, day=partition.day)


def _sweeps_due(database: DatabaseResource, page: str) -> list[DueSweep]:
    with database.get().transaction() as connection:
        return [
            due
            for due in sweeps.due(connection)
            if due.audience in CONFIG.audiences and CONFIG.audiences[due.audience].page == page
        ]


def _sweep(
    context: dg.AssetExecutionContext,
    partition: PageDay,
    due: DueSweep,
    database: DatabaseResource,
    storage: StorageResource,
    graph_api: GraphApiResource,
    suppression: SuppressionResource,
) -> int:
    throttle = graph_api.throttle_for_audience(due.audience, database.get())
    with graph_api.client_for_audience(due.audience, throttle) as client:
        return sweep(
            database.get(),
            storage.get(),
            client,
            due,
            suppression.get(),
            partition.day,
            sending=sending(),
            say=context.log.info,
        )


def _metadata(
    summary: LeavingSummary, states: Sequence[StateCount], removed: dict[str, int]
) -> dict[str, dg.MetadataValue]:
    counts = {
        "dagster/row_count": sum(state.requests for state in states),
        "new_from_list": summary.received,
        "newly_suppressed": summary.suppressed,
        "confirmed": summary.confirmed,
        "rejected": summary.rejected,
        "came_back_meanwhile": summary.overtaken,
        "still_traced": summary.untraced,
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
        metadata["left_by_messenger_only"] = dg.MetadataValue.md(
            f"{summary.by_messenger_only:,} people left by PSID, token or STOP. Meta links these "
            "to no e-mail or phone, so **no list can be filtered by them**: their tokens are "
            "suppressed, and they may stand in a Custom Audience still."
        )
    return metadata


def _everybody_has_left(
    states: Sequence[StateCount], due: Sequence[DueSweep]
) -> dg.AssetCheckResult:
    waiting = sum(row.requests for row in states if row.state in ("received", "sent"))
    audiences = ", ".join(sweep_due.audience for sweep_due in due)
    sentences = []
    if waiting:
        sentences.append(
            f"{waiting:,} requests are open. They are suppressed here; the next run goes on at "
            "Meta: see `why` in mm.unsubscribe_request."
        )
    if audiences:
        sentences.append(
            f"People were uploaded to {audiences} since it was looked through for those who "
            "left: materialise unsubscribes again."
        )
    return dg.AssetCheckResult(
        check_name="everybody_has_left",
        passed=not sentences,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(sentences) or "Everybody who asked to leave this Page has left it.",
        metadata={"open_requests": waiting, "audiences_to_look_through": len(due)},
    )


def _every_request_names_somebody(summary: LeavingSummary) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="every_request_names_somebody",
        passed=summary.rejected == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{summary.rejected:,} requests could not be carried out: `why` in "
            "mm.unsubscribe_request has the reasons. Look into the source and ask again."
            if summary.rejected
            else "Every request could be carried out."
        ),
        metadata={"rejected": summary.rejected},
    )
