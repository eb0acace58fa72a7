"""Requests to leave carried out, each step done before the next is begun.

Suppression comes first: from its commit on, no payload and no list of tokens has the person,
whatever Meta answers. Then the Page's unsubscribe edge, chunk by chunk, each marked before it is
sent and settled after; unsubscribing twice is the same as once, so a run that died is simply run
again. Settling erases the identifiers: `sweeping` needs only what is suppressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from sqlalchemy import Connection

from mm_pipelines.consent import messenger_consent, opt_out_requests, unsubscribe_list
from mm_pipelines.consent.identifiers import Leaver, read_requests
from mm_pipelines.consent.unsubscribe_bisection import Traced, chunks, unsubscribe_traced
from mm_pipelines.consent.unsubscribe_list import ListRead, read_unsubscribe_list
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.lists.location import stat_list
from mm_pipelines.suppression import suppression_list
from mm_pipelines.suppression.digests import suppression_digest
from mm_pipelines.suppression.suppression_list import SuppressedValue
from mm_pipelines.warehouse.database import Database

CALLS_FOR_TRACING = 100
"""Calls that finding a chunk's invalid rows may take; one row of 1,000 takes eleven."""

REFUSED_BY_META = "Meta finds the identifiers invalid"
NOT_TRACED = "Meta refused some of a group that this is in; the next run goes on looking which"
NAMES_NOBODY = "the row names nobody"


@dataclass(frozen=True)
class LeavingPlan:
    """Whose requests are carried out, and how.

    Attributes:
        page_id: Of the Page.
        suppression_key: ``MM_SUPPRESSION_KEY``.
        default_country: Alpha-2 code for phones without a country code.
        chunk: Rows of one call, at most 1,000.
    """

    page_id: str
    suppression_key: bytes = field(repr=False)
    default_country: str | None = None
    chunk: int = 1000


@dataclass
class LeavingSummary:
    """What a run did, in requests.

    Attributes:
        rows_in_list: Of the day's list; None where there is none.
        received: New from the list.
        overtaken: Of people who opted in again since.
        rejected: Unusable, or invalid at Meta.
        suppressed: E-mails and phones that were not suppressed before.
        confirmed: Carried out at Meta, their identifiers erased.
        untraced: Left for the next run, in groups of which Meta refused some.
        calls: Of the unsubscribe edge.
        by_messenger_only: Left by PSID, token or STOP, so that no list can be filtered by them.
    """

    rows_in_list: int | None = None
    received: int = 0
    overtaken: int = 0
    rejected: int = 0
    suppressed: int = 0
    confirmed: int = 0
    untraced: int = 0
    calls: int = 0
    by_messenger_only: int = 0


def receive_list(
    database: Database, url: str, plan: LeavingPlan, day: date, summary: LeavingSummary
) -> None:
    """Record what a day's list asks for, if there is one; rows recorded before stay as they are.

    Raises:
        ListError: The list cannot be read; see `lists.errors`.
        SuppressionKeyError: The rows' digests would not meet those of before.
    """
    # Looked at before it is read: what is added meanwhile changes the mark, and is read next.
    stat = stat_list(url)
    if stat is None:
        return
    with database.transaction() as connection:
        suppression_list.check_key(connection, plan.suppression_key)
    listed = read_unsubscribe_list(url, plan.suppression_key)
    with database.transaction() as connection:
        summary.received += opt_out_requests.receive(
            connection, plan.page_id, listed.requests, "list", list_day=day
        )
        summary.rejected += opt_out_requests.record_rejected_rows(
            connection, plan.page_id, listed.nobody, day, NAMES_NOBODY
        )
        unsubscribe_list.record(
            connection,
            plan.page_id,
            day,
            ListRead(mark=stat.mark, fingerprint=listed.fingerprint, row_count=listed.rows),
        )
    summary.rows_in_list = listed.rows


def suppress(database: Database, plan: LeavingPlan, summary: LeavingSummary) -> list[Leaver]:
    """Suppress everybody whose request is open, in one transaction.

    Returns:
        Whom Meta is still to unsubscribe.

    Raises:
        SuppressionKeyError: Another key is in use.
    """
    with database.transaction() as connection:
        suppression_list.check_key(connection, plan.suppression_key)
        summary.overtaken += opt_out_requests.reject_overtaken(connection, plan.page_id)
        open_requests = opt_out_requests.open_requests(connection, plan.page_id)
        leavers, unusable = read_requests(open_requests, plan.default_country)
        for why, ids in unusable.items():
            summary.rejected += opt_out_requests.reject(connection, ids, why)
        summary.suppressed += suppression_list.add(
            connection,
            [
                SuppressedValue(
                    key, suppression_digest(sha256, plan.suppression_key), leaver.request_id
                )
                for leaver in leavers
                for key, sha256 in leaver.hashes
            ],
        )
        messenger_consent.mark_tokens(connection, plan.page_id)
    summary.by_messenger_only += sum(not leaver.hashes for leaver in leavers)
    return leavers


def unsubscribe_at_meta(
    database: Database,
    client: GraphApiClient,
    leavers: Sequence[Leaver],
    plan: LeavingPlan,
    summary: LeavingSummary,
) -> None:
    """Unsubscribe people at the Page and settle their requests.

    Raises:
        GraphApiError: What was settled until then stays so; run again for the rest.
    """
    for group in chunks(leavers, plan.chunk):
        with database.transaction() as connection:
            opt_out_requests.mark_sent(connection, [leaver.request_id for leaver in group])
        rows = [row for leaver in group for row in leaver.rows]
        traced = unsubscribe_traced(client, plan.page_id, rows, calls=CALLS_FOR_TRACING)
        summary.calls += traced.calls
        with database.transaction() as connection:
            _settle(connection, group, traced, summary)


def _settle(
    connection: Connection, group: Sequence[Leaver], traced: Traced, summary: LeavingSummary
) -> None:
    fates = dict.fromkeys(traced.accepted, "accepted")
    fates |= dict.fromkeys(traced.refused, "refused") | dict.fromkeys(traced.untraced, "untraced")
    confirmed: dict[str | None, list[int]] = {}
    refused, untraced = [], []
    place = 0
    for leaver in group:
        fate = {fates[place + offset] for offset in range(len(leaver.rows))}
        place += len(leaver.rows)
        if "untraced" in fate:
            untraced.append(leaver.request_id)
        elif fate == {"refused"}:
            refused.append(leaver.request_id)
        else:
            # With one of several rows refused the person has left all the same, by the others.
            confirmed.setdefault(leaver.note, []).append(leaver.request_id)
    for note, ids in confirmed.items():
        summary.confirmed += opt_out_requests.confirm(connection, ids, note)
    summary.rejected += opt_out_requests.reject(connection, refused, REFUSED_BY_META)
    opt_out_requests.postpone(connection, untraced, NOT_TRACED)
    summary.untraced += len(untraced)
