"""Validates the identifiers of opt-out requests and turns them into rows for Meta and hashes.

A request may contain more identifiers than Meta permits in one row; it then becomes several rows
(docs/graph-api.md#unsubscribing). An unusable identifier is ignored as long as another one is
usable: a typing error in one field must not prevent the opt-out.

Meta receives one form of a phone number; the hashes cover every form under which a list may contain
it (docs/decisions/0012-phone-numbers-follow-libphonenumber.md).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import phonenumbers
import polars as pl

from mm_pipelines.consent.opt_out_requests import OpenRequest
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow
from mm_pipelines.identity import normalize, normalize_and_hash, phone_regions
from mm_pipelines.identity.hashing import sha256
from mm_pipelines.identity.phone import phone_readings
from mm_pipelines.suppression.suppression_list import SchemaKey

_PSID = re.compile(r"[0-9]{1,32}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_SPELLINGS = dict.fromkeys(("region", "bare", "zero_zero", "national"), pl.String)
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class OptOut:
    """An opt-out request with at least one usable identifier.

    Attributes:
        request_id: Its id in ``mm.unsubscribe_request``.
        rows: The rows to send to Meta.
        hashes: SHA-256 of e-mail and phone, as lists and audiences contain them; a phone that can
            be read in several ways has several.
        unusable: The names of the fields whose value is invalid.
    """

    request_id: int
    rows: tuple[UnsubscribeRow, ...] = field(repr=False)
    hashes: tuple[tuple[SchemaKey, str], ...] = field(repr=False)
    unusable: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """The reason to record when some fields were ignored; None otherwise."""
        return f"ignored because unusable: {', '.join(self.unusable)}" if self.unusable else None


def read_requests(
    requests: Sequence[OpenRequest], default_country: str | None
) -> tuple[list[OptOut], dict[str, list[int]]]:
    """Validate requests.

    Args:
        requests: With raw or hashed identifiers.
        default_country: Alpha-2 code for phones without a country code.

    Returns:
        The usable requests, and the ids of the others by the reason for their rejection.
    """
    opt_outs: list[OptOut] = []
    refused: dict[str, list[int]] = {}
    contacts = pl.DataFrame(
        {
            "EMAIL": [request.email for request in requests],
            "PHONE": [request.phone for request in requests],
        },
        schema={"EMAIL": pl.String, "PHONE": pl.String},
    )
    usable_contacts = normalize(contacts, default_country=default_country).fill_null("")
    hashes = _hashes(contacts, default_country)
    for place, request in enumerate(requests):
        usable = {
            "phone": usable_contacts["PHONE"][place],
            "email": usable_contacts["EMAIL"][place],
            "psid": _fullmatch(_PSID, request.psid),
            "subscriber_token": _fullmatch(_TOKEN, request.subscriber_token),
        }
        given = {name: getattr(request, name) for name in usable}
        named = [name for name, value in given.items() if value and value.strip()]
        unusable = tuple(name for name in named if not usable[name])
        rows = _rows(usable)
        if rows:
            opt_outs.append(OptOut(request.id, rows, hashes[place], unusable))
        else:
            why = f"unusable: {', '.join(unusable)}" if unusable else "every identifier is blank"
            refused.setdefault(why, []).append(request.id)
    return opt_outs, refused


def _fullmatch(pattern: re.Pattern[str], value: str | None) -> str:
    text = (value or "").strip()
    return text if pattern.fullmatch(text) else ""


def _rows(usable: dict[str, str]) -> tuple[UnsubscribeRow, ...]:
    phone = usable["phone"]
    if phone and not _HASH.fullmatch(phone):
        # Sent raw, because Meta does not say whether a hashed phone includes the plus
        # (docs/graph-api.md#q11-hashed-phones).
        phone = f"+{phone}"
    rows = []
    if phone or usable["email"]:
        rows.append(UnsubscribeRow(phone=phone or None, email=usable["email"] or None))
    if usable["psid"]:
        rows.append(UnsubscribeRow(psid=usable["psid"]))
    if usable["subscriber_token"]:
        rows.append(UnsubscribeRow(subscriber_token=usable["subscriber_token"]))
    return tuple(rows)


def _hashes(
    contacts: pl.DataFrame, default_country: str | None
) -> list[tuple[tuple[SchemaKey, str], ...]]:
    """Return the hashes of each row."""
    emails = normalize_and_hash(contacts.select("EMAIL"))["EMAIL"].fill_null("")
    forms = _phone_forms(contacts, default_country)
    phones = forms.select(pl.all().map_batches(sha256, return_dtype=pl.String)).fill_null("")
    found: list[tuple[tuple[SchemaKey, str], ...]] = []
    for email, row in zip(emails, phones.iter_rows(), strict=True):
        named: list[tuple[SchemaKey, str]] = [("EMAIL", email)] if email else []
        named += [("PHONE", phone) for phone in dict.fromkeys(row) if phone]
        found.append(tuple(named))
    return found


def _phone_forms(contacts: pl.DataFrame, default_country: str | None) -> pl.DataFrame:
    """Return every form of each row's phone, one per column, often equal.

    A list may write any reading of the number without its plus sign, and what comes of that is a
    form too: audiences that an earlier version filled contain it.
    """
    regions = phone_regions(contacts, default_country=default_country)
    readings = phone_readings(contacts["PHONE"], regions)
    forms = [readings]
    for reading in readings:
        spelled = pl.DataFrame(map(_spellings, reading), schema=_SPELLINGS, orient="row")
        regions, *spellings = spelled
        forms += [phone_readings(spelling, regions) for spelling in spellings]
    columns = [form for frame in forms for form in frame]
    return pl.DataFrame([form.alias(str(place)) for place, form in enumerate(columns)])


def _spellings(digits: str | None) -> tuple[str, str, str, str]:
    """Return the lower-case region of a normalized number, and how a list may write it bare.

    That is with the country code, with 00 before it, and with the trunk prefix. All are "" for a
    hash and for no number.
    """
    if not digits or _HASH.fullmatch(digits):
        return "", "", "", ""
    number = phonenumbers.parse(f"+{digits}")
    region = phonenumbers.region_code_for_country_code(number.country_code or 0)
    if region not in phonenumbers.SUPPORTED_REGIONS:
        return "", digits, digits, digits
    trunk_prefix = phonenumbers.ndd_prefix_for_region(region, True) or ""
    national = digits.removeprefix(str(number.country_code))
    return region.lower(), digits, f"00{digits}", f"{trunk_prefix}{national}"
