"""Opt-in requests: who wrote to the Page is asked, once, whether they want marketing messages."""

from collections import Counter
from dataclasses import dataclass, field

from mm_pipelines.consent import optin_request_ledger
from mm_pipelines.consent.optin_request_ledger import Outcome, Reservation
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.graph_api.messages import OptInRequest, Verdict, send_opt_in_request, verdict
from mm_pipelines.warehouse.database import Database

_PEOPLE_AT_ONCE = 500

_OUTCOMES: dict[Verdict, Outcome] = {
    Verdict.RETRY: "released",
    Verdict.STOP: "released",
    Verdict.SKIP_PERSON: "skipped",
    Verdict.MAYBE_ASKED: "unknown",
}


@dataclass(frozen=True)
class Question:
    """What mm.yaml has people asked.

    Attributes:
        title: At most 65 characters; the person reads it.
        image_url: https.
        payload: Comes back in the webhook of the answer.
        cta_text: One of `graph_api.messages.CTA_TEXTS`; None for Meta's own.
        timezone: For people whose own is not known.
    """

    title: str
    image_url: str
    payload: str
    cta_text: str | None
    timezone: str


@dataclass
class AskingSummary:
    """How a run's requests ended.

    Attributes:
        outcomes: People by outcome: sent, unknown, skipped, released.
        reasons: People not asked, by Meta's code and subcode.
        abandoned: Requests of dead runs, counted now as perhaps sent.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0


def ask_people(
    database: Database,
    client: GraphApiClient,
    page_id: str,
    question: Question,
    summary: AskingSummary,
) -> None:
    """Ask everybody who may be asked now: inside the window, without a token, not suppressed.

    Each person is reserved in a transaction of its own before the request is sent. Whatever happens
    then, the person counts as asked, unless Meta says for sure that nothing was sent.

    Raises:
        GraphApiError: Nobody can be asked for now; who was reserved last is free again.
    """
    summary.abandoned += _settle_abandoned(database, page_id)
    while psids := _candidates(database, page_id, question.title):
        for psid in psids:
            with database.transaction() as connection:
                reservation = optin_request_ledger.reserve(
                    connection, page_id, psid, question.title
                )
            if reservation is not None:
                _ask(database, client, page_id, question, reservation, summary)


def _ask(
    database: Database,
    client: GraphApiClient,
    page_id: str,
    question: Question,
    reservation: Reservation,
    summary: AskingSummary,
) -> None:
    request = OptInRequest(
        psid=reservation.psid,
        title=question.title,
        image_url=question.image_url,
        payload=question.payload,
        timezone=reservation.timezone or question.timezone,
        cta_text=question.cta_text,
    )
    try:
        receipt = send_opt_in_request(client, page_id, request)
    except GraphApiError as error:
        decision, why = verdict(error), _reason(error)
        summary.reasons[why] += 1
        _settle(database, reservation, _OUTCOMES[decision], summary, why=why)
        if decision in (Verdict.RETRY, Verdict.STOP):
            raise
    else:
        _settle(database, reservation, "sent", summary, message_id=receipt.message_id)


def _settle(
    database: Database,
    reservation: Reservation,
    outcome: Outcome,
    summary: AskingSummary,
    *,
    why: str | None = None,
    message_id: str | None = None,
) -> None:
    with database.transaction() as connection:
        optin_request_ledger.settle(
            connection, reservation, outcome, why=why, message_id=message_id
        )
    summary.outcomes[outcome] += 1


def _candidates(database: Database, page_id: str, title: str) -> list[str]:
    with database.transaction() as connection:
        return optin_request_ledger.candidates(connection, page_id, title, _PEOPLE_AT_ONCE)


def _settle_abandoned(database: Database, page_id: str) -> int:
    with database.transaction() as connection:
        return optin_request_ledger.settle_abandoned(connection, page_id)


def _reason(error: GraphApiError) -> str:
    known = [str(number) for number in (error.code, error.subcode) if number is not None]
    return "/".join(known) or type(error).__name__
