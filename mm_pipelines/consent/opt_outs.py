"""Carries out opt-out requests: suppress, then unsubscribe at Meta, then close the request.

Suppression is committed first and holds whatever Meta answers: no payload and no list of sendable
tokens contains the person from then on. Requests are marked before they are sent and closed after.
Unsubscribing twice has the same effect as once, so an interrupted run is simply repeated. Closing a
request erases its identifiers; `audience_cleanup` needs only the suppression list.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from sqlalchemy import Connection

from mm_pipelines.consent import messenger_consent, opt_out_requests, unsubscribe_list
from mm_pipelines.consent.identifiers import OptOut, read_requests
from mm_pipelines.consent.unsubscribe_bisection import (
    BisectionResult,
    chunks,
    unsubscribe_by_bisection,
)
from mm_pipelines.consent.unsubscribe_list import (
    ListRead,
    UnsubscribeList,
    read_unsubscribe_list,
)
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.lists.location import stat_list
from mm_pipelines.suppression import suppression_list
from mm_pipelines.suppression.keys import SuppressionKeys, check_keys
from mm_pipelines.suppression.suppression_list import SuppressedValue
from mm_pipelines.tokens import sender_file, webhook_tokens
from mm_pipelines.warehouse.database import Database

MAX_CALLS_PER_CHUNK = 100
"""The most calls for finding a chunk's invalid rows; one row of 1,000 takes eleven calls."""

REFUSED_BY_META = "Meta finds the identifiers invalid"
NOT_RESOLVED = "Meta refused some rows of this group; the next run continues to find which"
NO_IDENTIFIER = "the row contains no identifier"


@dataclass(frozen=True)
class OptOutPlan:
    """How to carry out the opt-outs of one Page.

    Attributes:
        page_id: The Page.
        suppression_keys: ``MM_SUPPRESSION_KEY``.
        default_country: Alpha-2 code for phones without a country code.
        chunk: Rows per call, at most 1,000.
    """

    page_id: str
    suppression_keys: SuppressionKeys = field(repr=False)
    default_country: str | None = None
    chunk: int = 1000


@dataclass
class OptOutSummary:
    """The result of a run, in requests.

    Attributes:
        rows_in_list: Rows of the day's list; None if there is no list.
        received: New requests from the list.
        overtaken: Requests of people who opted in again later.
        rejected: Requests that are unusable or that Meta refused.
        suppressed: Hashes that were not suppressed before; see `identifiers.OptOut.hashes`.
        confirmed: Requests that Meta accepted; their identifiers are erased.
        unresolved: Requests kept for the next run, in groups that Meta refused in part.
        calls: Calls to the unsubscribe edge.
        by_messenger_only: Requests by PSID, token or STOP alone; lists cannot be filtered by them.
    """

    rows_in_list: int | None = None
    received: int = 0
    overtaken: int = 0
    rejected: int = 0
    suppressed: int = 0
    confirmed: int = 0
    unresolved: int = 0
    calls: int = 0
    by_messenger_only: int = 0


def receive_list(
    database: Database, url: str, plan: OptOutPlan, day: date, summary: OptOutSummary
) -> None:
    """Store the requests of a day's list, if there is one; rows stored before are skipped.

    Raises:
        ListError: The list cannot be read; see `lists.errors`.
        SuppressionKeyError: Another key is in use, so stored rows would not be recognized.
    """
    # The mark is taken before reading, so a later change is read by the next run.
    stat = stat_list(url)
    if stat is None:
        return
    with database.transaction() as connection:
        check_keys(connection, plan.suppression_keys)
    listed = read_unsubscribe_list(url, plan.suppression_keys.current)
    with database.transaction() as connection:
        new = _without_known_rows(connection, url, plan, day, listed)
        summary.received += opt_out_requests.receive(
            connection, plan.page_id, new.requests, "list", list_day=day
        )
        summary.rejected += opt_out_requests.record_rejected_rows(
            connection, plan.page_id, new.rejected, day, NO_IDENTIFIER
        )
        unsubscribe_list.record(
            connection,
            plan.page_id,
            day,
            ListRead(mark=stat.mark, fingerprint=listed.fingerprint, row_count=listed.rows),
        )
    summary.rows_in_list = listed.rows


def _without_known_rows(
    connection: Connection, url: str, plan: OptOutPlan, day: date, listed: UnsubscribeList
) -> UnsubscribeList:
    """The list without the rows that were read while the previous key was in use."""
    if plan.suppression_keys.previous is None:
        return listed
    before = read_unsubscribe_list(url, plan.suppression_keys.previous)
    if before.fingerprint != listed.fingerprint:
        return listed  # it changed meanwhile; requests that are stored twice have no other effect
    known = opt_out_requests.row_digests(connection, plan.page_id, day)
    return UnsubscribeList(
        listed.fingerprint,
        [
            request
            for request, former in zip(listed.requests, before.requests, strict=True)
            if former.row_digest not in known
        ],
        [
            digest
            for digest, former in zip(listed.rejected, before.rejected, strict=True)
            if former not in known
        ],
    )


def suppress(database: Database, plan: OptOutPlan, summary: OptOutSummary) -> list[OptOut]:
    """Add the people of all open requests to the suppression list, and renew the sender's file.

    That is committed before the tokens are marked, which may wait until a running pull is merged.

    Returns:
        The opt-outs to send to Meta.

    Raises:
        SuppressionKeyError: Another key is in use.
    """
    with database.transaction() as connection:
        check_keys(connection, plan.suppression_keys)
        summary.overtaken += opt_out_requests.reject_overtaken(connection, plan.page_id)
        open_requests = opt_out_requests.open_requests(connection, plan.page_id)
        opt_outs, unusable = read_requests(open_requests, plan.default_country)
        for why, ids in unusable.items():
            summary.rejected += opt_out_requests.reject(connection, ids, why)
        added = suppression_list.add(
            connection,
            plan.suppression_keys,
            [
                SuppressedValue(key, sha256, opt_out.request_id)
                for opt_out in opt_outs
                for key, sha256 in opt_out.hashes
            ],
        )
        if added:
            sender_file.note_change(connection, plan.page_id, "consent")
        summary.suppressed += added
    with database.transaction() as connection:
        webhook_tokens.lock_page(connection, plan.page_id)
        messenger_consent.mark_tokens(connection, plan.page_id)
    summary.by_messenger_only += sum(not opt_out.hashes for opt_out in opt_outs)
    return opt_outs


def unsubscribe_at_meta(
    database: Database,
    client: GraphApiClient,
    opt_outs: Sequence[OptOut],
    plan: OptOutPlan,
    summary: OptOutSummary,
) -> None:
    """Unsubscribe people at the Page and close their requests.

    Raises:
        GraphApiError: A call failed. Closed requests stay closed; run again for the rest.
    """
    for group in chunks(opt_outs, plan.chunk):
        with database.transaction() as connection:
            opt_out_requests.mark_sent(connection, [opt_out.request_id for opt_out in group])
        rows = [row for opt_out in group for row in opt_out.rows]
        result = unsubscribe_by_bisection(client, plan.page_id, rows, calls=MAX_CALLS_PER_CHUNK)
        summary.calls += result.calls
        with database.transaction() as connection:
            _close(connection, group, result, summary)


def _close(
    connection: Connection, group: Sequence[OptOut], result: BisectionResult, summary: OptOutSummary
) -> None:
    outcomes = dict.fromkeys(result.accepted, "accepted")
    outcomes |= dict.fromkeys(result.refused, "refused") | dict.fromkeys(
        result.unresolved, "unresolved"
    )
    confirmed: dict[str | None, list[int]] = {}
    refused, unresolved = [], []
    place = 0
    for opt_out in group:
        outcome = {outcomes[place + offset] for offset in range(len(opt_out.rows))}
        place += len(opt_out.rows)
        if "unresolved" in outcome:
            unresolved.append(opt_out.request_id)
        elif outcome == {"refused"}:
            refused.append(opt_out.request_id)
        else:
            # Meta accepted at least one of the rows, so the person is unsubscribed.
            confirmed.setdefault(opt_out.note, []).append(opt_out.request_id)
    for note, ids in confirmed.items():
        summary.confirmed += opt_out_requests.confirm(connection, ids, note)
    summary.rejected += opt_out_requests.reject(connection, refused, REFUSED_BY_META)
    opt_out_requests.postpone(connection, unresolved, NOT_RESOLVED)
    summary.unresolved += len(unresolved)
