"""Validates the identifiers of opt-out requests and turns them into rows for Meta and hashes.

A request may contain more identifiers than Meta permits in one row; it then becomes several rows
(docs/graph-api.md#unsubscribing). An unusable identifier is ignored as long as another one is
usable: a typing error in one field must not prevent the opt-out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from mm_pipelines.consent.opt_out_requests import OpenRequest
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow
from mm_pipelines.identity import normalize, normalize_and_hash
from mm_pipelines.suppression.suppression_list import SchemaKey

_PSID = re.compile(r"[0-9]{1,32}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class OptOut:
    """An opt-out request with at least one usable identifier.

    Attributes:
        request_id: Its id in ``mm.unsubscribe_request``.
        rows: The rows to send to Meta.
        hashes: SHA-256 of e-mail and phone, as lists and audiences contain them.
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
    for request, usable in zip(requests, _normalized(requests, default_country), strict=True):
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
            opt_outs.append(OptOut(request.id, rows, _hashes(usable), unusable))
        else:
            why = f"unusable: {', '.join(unusable)}" if unusable else "every identifier is blank"
            refused.setdefault(why, []).append(request.id)
    return opt_outs, refused


def _normalized(
    requests: Sequence[OpenRequest], default_country: str | None
) -> list[dict[str, str]]:
    contacts = pl.DataFrame(
        {
            "EMAIL": [request.email for request in requests],
            "PHONE": [request.phone for request in requests],
        },
        schema={"EMAIL": pl.String, "PHONE": pl.String},
    )
    usable = normalize(contacts, default_country=default_country).fill_null("")
    hashed = normalize_and_hash(contacts, default_country=default_country).fill_null("")
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


def _hashes(usable: dict[str, str]) -> tuple[tuple[SchemaKey, str], ...]:
    found: list[tuple[SchemaKey, str]] = []
    if usable["email_hash"]:
        found.append(("EMAIL", usable["email_hash"]))
    if usable["phone_hash"]:
        found.append(("PHONE", usable["phone_hash"]))
    return tuple(found)
