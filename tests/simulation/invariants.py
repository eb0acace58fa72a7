"""What must hold at every moment, and what must hold once everything is quiet."""

import json
from typing import Any

from sqlalchemy import Connection, text

from tests.simulation.company import AUDIENCES, CANARY, customer_of_row
from tests.simulation.meta import Meta
from tests.simulation.model import Model
from tests.simulation.process import Call, Ended
from tests.simulation.runs import OVERDUE_AFTER, Work


class ViolationError(AssertionError):
    """An invariant does not hold."""


_CUSTOMERS = customer_of_row()

_SENDABLE_STOPPED = text("""
select count(*) from mm.sendable_token
where page_id || '/' || recipient_id = any(:stopped)
""")

_NEXT_OVERDUE = text("""
select extract(epoch from min(acknowledged_at + :overdue_after)) from mm.upload_batch
where status = 'acknowledged' and reported_event_id is null
  and acknowledged_at + :overdue_after > now()
""")


def next_overdue(connection: Connection) -> float | None:
    """When the next batch without a report becomes overdue."""
    at = connection.scalar(_NEXT_OVERDUE, {"overdue_after": OVERDUE_AFTER})
    return float(at) if at is not None else None


def check_log(work: Work, outcome: Ended) -> None:
    """No log line and no exception contains personal data; no run fails for an unknown reason."""
    if CANARY in outcome.log or CANARY in (outcome.error or ""):
        raise ViolationError(f"{work} logs personal data: {outcome.log}")
    if outcome.error is not None and outcome.wait is None and not outcome.deferred:
        raise ViolationError(f"{work} fails for good: {outcome.error}\n{outcome.log}")


def batch_of(call: Call) -> tuple[int, int] | None:
    """The session and number of the batch that a call uploads; None for any other call."""
    if call.method != "POST" or not call.request.url.path.endswith("/users"):
        return None
    session = json.loads(call.content)["session"]
    return session["session_id"], session["batch_seq"]


def check_call(model: Model, work: Work, call: Call) -> None:
    """An upload contains no suppressed customer and is no batch that was acknowledged."""
    batch = batch_of(call)
    if batch is None:
        return
    if batch in model.answered:
        raise ViolationError(f"{work} sends an acknowledged batch again")
    payload = json.loads(call.content)["payload"]
    places = [payload["schema"].index(key) for key in ("EMAIL", "PHONE")]
    rows = {"|".join(str(row[place]) for place in places) for row in payload["data"]}
    sent = {_CUSTOMERS[row] for row in rows}
    if suppressed := sent & model.suppressed_before(work):
        raise ViolationError(f"{work} uploads suppressed customers: {suppressed}")


def check(connection: Connection, model: Model, meta: Meta) -> None:
    """What must hold at every moment."""
    stopped = [f"{page_id}/{psid}" for page_id, psid in model.stored_stops]
    if connection.scalar(_SENDABLE_STOPPED, {"stopped": stopped}):
        raise ViolationError("a token of a person who stopped is sendable")


def check_at_rest(connection: Connection, model: Model, meta: Meta, found: Any) -> None:
    """What must hold once everything is quiet."""
    for audience in AUDIENCES:
        at_meta = {_CUSTOMERS[row] for row in meta.members(audience)}
        ours = {_CUSTOMERS[row] for row in found["members"].get(audience, ())}
        wanted = model.members(audience)
        if at_meta != ours:
            raise ViolationError(
                f"{audience}: at Meta only {at_meta - ours}, in our ledger only {ours - at_meta}"
            )
        if ours != wanted:
            raise ViolationError(
                f"{audience}: too many {sorted(ours - wanted)}, missing {sorted(wanted - ours)}"
            )
    for page_id, tokens in found["listed"].items():
        if tokens != found["live"][page_id]:
            raise ViolationError(f"the tokens of Page {page_id} differ from Meta's listing")
    stored = connection.scalar(text("select count(*) from mm.webhook_event"))
    if stored != len(model.webhooks):
        raise ViolationError(f"{len(model.webhooks)} webhooks arrived, {stored} events are stored")
    pending = connection.scalar(
        text("select count(*) from mm.webhook_event where processed_at is null")
    )
    if pending:
        raise ViolationError(f"{pending} webhook events are pending")
    if open_requests := connection.scalar(
        text("select count(*) from mm.unsubscribe_request where state in ('received', 'sent')")
    ):
        raise ViolationError(f"{open_requests} opt-outs are open")
    unreported = connection.scalar(
        text("select count(*) from mm.match_status where status not in ('complete', 'failed')")
    )
    if unreported:
        raise ViolationError(f"{unreported} match statuses are not complete")
