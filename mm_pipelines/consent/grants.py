"""Lifts a suppression on purpose and records the reason.

An opt-in by webhook lifts the suppression of its PSID and token by itself. This is for consent that
arrives in another way, such as a signed form, and for opt-outs by e-mail or phone.
"""

from sqlalchemy import Connection, text

from mm_pipelines.consent import messenger_consent, opt_out_requests
from mm_pipelines.consent.identifiers import OptOut, read_requests
from mm_pipelines.consent.messenger_consent import Grant
from mm_pipelines.consent.opt_out_requests import OpenRequest
from mm_pipelines.suppression import erased_contacts, suppression_list
from mm_pipelines.suppression.keys import SuppressionKeys, check_keys
from mm_pipelines.suppression.suppression_list import SchemaKey
from mm_pipelines.tokens import webhook_tokens
from mm_pipelines.warehouse.database import Database

WHY_CLOSED = "consent was granted by command"

# Returns the contacts of the person with a PSID or token, as far as they are known.
_CONTACTS = text("""
with person as (
    select cast(:contact as text) as psid where :kind = 'psid'
    union
    select recipient_id from mm.subscription_token
    where page_id = :page_id and :kind = 'token' and token = :contact and recipient_id is not null
)
select 'psid' as kind, psid as contact, now() as granted_at from person
union
select 'token', token, now() from mm.subscription_token
where page_id = :page_id and recipient_id in (select psid from person)
union
select :kind, :contact, now()
""")

# Records a grant.
_RECORD = text("""
insert into mm.consent_grant (page_id, named_by, reason, lifted)
values (:page_id, :named_by, :reason, :lifted)
""")


class GrantError(Exception):
    """The consent cannot be granted."""


def grant_by_contact(
    database: Database,
    page_id: str,
    kind: str,
    contact: str,
    *,
    reason: str,
    suppression_keys: SuppressionKeys | None = None,
) -> int:
    """Lift the suppression of a PSID or token, and of the person's other contacts on the Page.

    Returns:
        The number of contacts whose suppression was lifted; 0 records nothing.
    """
    with database.transaction() as connection:
        webhook_tokens.lock_page(connection, page_id)
        values = {"page_id": page_id, "kind": kind, "contact": contact}
        grants = [
            Grant(page_id, row.kind, row.contact, row.granted_at)
            for row in connection.execute(_CONTACTS, values)
        ]
        lifted = messenger_consent.grant(connection, grants)
        erased = erased_contacts.load(connection, page_id, suppression_keys)
        lifted += erased.lift(connection, [(each.kind, each.contact) for each in grants])
        messenger_consent.mark_tokens(connection, page_id)
        opt_out_requests.reject_overtaken(connection, page_id)
        if lifted:
            _record(connection, page_id, kind, reason, lifted)
    return lifted


def grant_by_identifier(
    database: Database,
    suppression_keys: SuppressionKeys,
    kind: str,
    value: str,
    *,
    reason: str,
    default_country: str | None,
) -> int:
    """Lift the suppression of an e-mail or phone, for every Page and audience.

    Open opt-outs that contain nothing but this value are closed, because they would suppress it
    again.

    Returns:
        1 if the suppression was lifted or an open opt-out was closed; 0 records nothing.

    Raises:
        GrantError: The value is unusable, or an open opt-out contains other identifiers too.
        SuppressionKeyError: Another key is in use.
    """
    named = {"email": None, "phone": None, "psid": None, "subscriber_token": None, kind: value}
    usable, _ = read_requests([OpenRequest(id=0, **named)], default_country)
    if not usable:
        raise GrantError(f"the {kind} is unusable. Write it in full, phones with a country code.")
    hashes = set(usable[0].hashes)
    with database.transaction() as connection:
        check_keys(connection, suppression_keys)
        closed = _close_requests(connection, hashes, default_country)
        lifted = suppression_list.lift(connection, suppression_keys, hashes)
        if lifted or closed:
            _record(connection, None, kind, reason, lifted)
    return int(bool(lifted or closed))


def _close_requests(
    connection: Connection, hashes: set[tuple[SchemaKey, str]], default_country: str | None
) -> int:
    closed = 0
    for page in opt_out_requests.open_by_page(connection):
        open_requests = opt_out_requests.open_requests(connection, page.page_id)
        opt_outs, _ = read_requests(open_requests, default_country)
        same = [each for each in opt_outs if not hashes.isdisjoint(each.hashes)]
        if any(not _contains_only(each, hashes) for each in same):
            raise GrantError(
                "an open opt-out contains this value and other identifiers. Materialize "
                "unsubscribes for the Page, then grant the consent again."
            )
        ids = [each.request_id for each in same]
        closed += opt_out_requests.reject(connection, ids, WHY_CLOSED)
    return closed


def _contains_only(opt_out: OptOut, hashes: set[tuple[SchemaKey, str]]) -> bool:
    return hashes.issuperset(opt_out.hashes) and not any(
        row.psid or row.subscriber_token for row in opt_out.rows
    )


def _record(
    connection: Connection, page_id: str | None, named_by: str, reason: str, lifted: int
) -> None:
    values = {"page_id": page_id, "named_by": named_by, "reason": reason, "lifted": lifted}
    connection.execute(_RECORD, values)
