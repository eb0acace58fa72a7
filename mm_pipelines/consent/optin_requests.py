"""Sends opt-in requests to people who recently wrote to the Page."""

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
class OptInPrompt:
    """The opt-in request that mm.yaml configures.

    Attributes:
        title: At most 65 characters; the person reads it.
        image_url: Https.
        payload: Returned in the webhook of the answer and stored with its token.
        cta_text: One of `graph_api.messages.CTA_TEXTS`; None for Meta's default.
        timezone: Used for people whose own is unknown.
    """

    title: str
    image_url: str
    payload: str
    cta_text: str | None
    timezone: str


@dataclass
class OptInSummary:
    """The outcomes of a run's requests.

    Attributes:
        outcomes: The number of people by outcome.
        reasons: The number of people not asked, by Meta's code and subcode.
        abandoned: Requests of dead runs, which now count as sent.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0


def send_optin_requests(
    database: Database,
    client: GraphApiClient,
    page_id: str,
    prompt: OptInPrompt,
    summary: OptInSummary,
) -> None:
    """Send a request to each person in the window who has no live token and is not suppressed.

    Each request is reserved in its own transaction before it is sent. The person then counts as
    asked unless Meta states that nothing was sent.

    Raises:
        GraphApiError: No request can be sent for now; the last reservation was released.
    """
    summary.abandoned += _resolve_abandoned(database, page_id)
    while psids := _candidates(database, page_id, prompt.title):
        for psid in psids:
            with database.transaction() as connection:
                reservation = optin_request_ledger.reserve(
                    connection, page_id, psid, prompt.title, prompt.payload
                )
            if reservation is not None:
                _send(database, client, page_id, prompt, reservation, summary)


def _send(
    database: Database,
    client: GraphApiClient,
    page_id: str,
    prompt: OptInPrompt,
    reservation: Reservation,
    summary: OptInSummary,
) -> None:
    request = OptInRequest(
        psid=reservation.psid,
        title=prompt.title,
        image_url=prompt.image_url,
        payload=prompt.payload,
        timezone=reservation.timezone or prompt.timezone,
        cta_text=prompt.cta_text,
    )
    try:
        receipt = send_opt_in_request(client, page_id, request)
    except GraphApiError as error:
        decision, why = verdict(error), _reason(error)
        summary.reasons[why] += 1
        _record_outcome(database, reservation, _OUTCOMES[decision], summary, why=why)
        if decision in (Verdict.RETRY, Verdict.STOP):
            raise
    else:
        _record_outcome(database, reservation, "sent", summary, message_id=receipt.message_id)


def _record_outcome(
    database: Database,
    reservation: Reservation,
    outcome: Outcome,
    summary: OptInSummary,
    *,
    why: str | None = None,
    message_id: str | None = None,
) -> None:
    with database.transaction() as connection:
        optin_request_ledger.record_outcome(
            connection, reservation, outcome, why=why, message_id=message_id
        )
    summary.outcomes[outcome] += 1


def _candidates(database: Database, page_id: str, title: str) -> list[str]:
    with database.transaction() as connection:
        return optin_request_ledger.candidates(connection, page_id, title, _PEOPLE_AT_ONCE)


def _resolve_abandoned(database: Database, page_id: str) -> int:
    with database.transaction() as connection:
        return optin_request_ledger.resolve_abandoned(connection, page_id)


def _reason(error: GraphApiError) -> str:
    known = [str(number) for number in (error.code, error.subcode) if number is not None]
    return "/".join(known) or type(error).__name__
