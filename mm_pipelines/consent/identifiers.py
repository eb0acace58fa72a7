"""Requests to leave as the rows that Meta takes, and as the hashes that our lists are compared by.

A request may name a person by more than Meta permits in one row (graph-api-facts 2.10); it is then
sent as several. What cannot be used is left aside as long as anything can: leaving must not fail
for a typing error in the other field.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from mm_pipelines.consent.opt_out_requests import OpenRequest
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow
from mm_pipelines.identity import normalise, normalise_and_hash
from mm_pipelines.suppression.suppression_list import SchemaKey

_PSID = re.compile(r"[0-9]{1,32}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Leaver:
    """A request that names somebody.

    Attributes:
        rows: What Meta is sent for it.
        hashes: SHA-256 of e-mail and phone, by which lists and audiences know the person.
        unusable: The names of the fields that hold no value of their kind.
    """

    request_id: int
    rows: tuple[UnsubscribeRow, ...] = field(repr=False)
    hashes: tuple[tuple[SchemaKey, str], ...] = field(repr=False)
    unusable: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """What is said of a request that was carried out only in part."""
        return f"unusable and left aside: {', '.join(self.unusable)}" if self.unusable else None


def read_requests(
    requests: Sequence[OpenRequest], default_country: str | None
) -> tuple[list[Leaver], dict[str, list[int]]]:
    """What each request asks for.

    Args:
        requests: With identifiers as people write them, or hashed.
        default_country: Alpha-2 code for phones without a country code; None where there is none.

    Returns:
        Those that name somebody, and the ids of the others by the reason why they do not.
    """
    leavers: list[Leaver] = []
    refused: dict[str, list[int]] = {}
    for request, usable in zip(requests, _normalised(requests, default_country), strict=True):
        given = {
            "phone": request.phone,
            "email": request.email,
            "psid": request.psid,
            "subscriber_token": request.subscriber_token,
        }
        named = [name for name, value in given.items() if value and value.strip()]
        unusable = tuple(name for name in named if not usable[name])
        rows = _rows(usable)
        if rows:
            leavers.append(Leaver(request.id, rows, _hashes(usable), unusable))
        else:
            why = f"unusable: {', '.join(unusable)}" if unusable else "every identifier is blank"
            refused.setdefault(why, []).append(request.id)
    return leavers, refused


def _normalised(
    requests: Sequence[OpenRequest], default_country: str | None
) -> list[dict[str, str]]:
    contacts = pl.DataFrame(
        {
            "EMAIL": [request.email for request in requests],
            "PHONE": [request.phone for request in requests],
        },
        schema={"EMAIL": pl.String, "PHONE": pl.String},
    )
    usable = normalise(contacts, default_country=default_country).fill_null("")
    hashed = normalise_and_hash(contacts, default_country=default_country).fill_null("")
    return [
        {
            "phone": phone,
            "email": email,
            "phone_hash": phone_hash,
            "email_hash": email_hash,
            "psid": _fullmatch(_PSID, request.psid),
            "subscriber_token": _fullmatch(_TOKEN, request.subscriber_token),
        }
        for request, (email, phone), (email_hash, phone_hash) in zip(
            requests,
            usable.select("EMAIL", "PHONE").iter_rows(),
            hashed.select("EMAIL", "PHONE").iter_rows(),
            strict=True,
        )
    ]


def _fullmatch(pattern: re.Pattern[str], value: str | None) -> str:
    text = (value or "").strip()
    return text if pattern.fullmatch(text) else ""


def _rows(usable: dict[str, str]) -> tuple[UnsubscribeRow, ...]:
    phone = usable["phone"]
    if phone and not _HASH.fullmatch(phone):
        # Raw rather than hashed: Meta does not say whether it hashes with the plus (question 11).
        phone = f"+{phone}"
    rows = []
    if phone or usable["email"]:
        rows.append(UnsubscribeRow(phone=phone or None, email=usable["email"] or None))
    if usable["psid"]:
        rows.append(UnsubscribeRow(psid=usable["psid"]))
    if usable["subscriber_token"]:
        rows.append(UnsubscribeRow(subscriber_token=usable["subscriber_token"]))
    return tuple(rows)


def _hashes(usable: dict[str, str]) -> tuple[tuple[SchemaKey, str], ...]:
    found: list[tuple[SchemaKey, str]] = []
    if usable["email_hash"]:
        found.append(("EMAIL", usable["email_hash"]))
    if usable["phone_hash"]:
        found.append(("PHONE", usable["phone_hash"]))
    return tuple(found)
