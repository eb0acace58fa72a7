"""The `payload` and `session` parameters of the customer-file edges, checked in bulk (facts 2.4).

A batch has up to 10,000 rows of several 64-character values, so columns are checked whole and rows
one by one only where a column holds something wrong.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import to_json
from mm_pipelines.sandbox.errors import invalid_parameter, missing_parameter

ROWS_PER_REQUEST = 10_000
SAMPLES_PER_ANSWER = 100

EMAIL_KEYS = ("EMAIL", "EMAIL_SHA256")
PHONE_KEYS = ("PHONE", "PHONE_SHA256")
HASHED_KEYS = frozenset(
    (*EMAIL_KEYS, *PHONE_KEYS, "GEN", "DOBY", "DOBM", "DOBD", "FN", "LN", "FI", "ST", "CT", "ZIP",
     "COUNTRY")
)  # fmt: skip
PLAIN_KEYS = frozenset(
    ("MADID", "MOBILE_ADVERTISER_ID", "EXTERN_ID", "APPUID", "PAGEUID", "UID", "LOOKALIKE_VALUE",
     "DATA_PROCESSING_OPTIONS", "DATA_PROCESSING_OPTIONS_COUNTRY", "DATA_PROCESSING_OPTIONS_STATE")
)  # fmt: skip

_HEX = "0123456789abcdef"
_HASH = re.compile(r"[0-9a-f]{64}\Z")
# Nobody's e-mail is the empty string: this hash always means a cell that should have been "".
HASH_OF_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Rows:
    """The rows of one request.

    `contacts` are the (e-mail, phone) hashes of the valid rows, as bytes, empty where absent;
    `invalid` are the rows refused, by their index from 0.
    """

    schema: tuple[str, ...]
    contacts: list[tuple[bytes, bytes]] = field(repr=False)
    num_rows: int
    invalid: dict[int, str] = field(repr=False)
    digest: str

    def samples(self, shape: str) -> dict[str, str] | list[str]:
        """`invalid_entry_samples` in one of its documented shapes, at most 100."""
        chosen = list(self.invalid.items())[:SAMPLES_PER_ANSWER]
        if shape == "map":
            return {str(index): row for index, row in chosen}
        if shape == "array":
            return [row for _, row in chosen]
        return {} if shape == "empty_map" else []


@dataclass(frozen=True)
class SessionPart:
    """The `session` parameter: which batch of which session this is."""

    session_id: int
    batch_seq: int
    last: bool
    estimated_total: int | None


def read_rows(call: Call) -> Rows:
    """The payload's rows; code 100 where the request as a whole cannot be used."""
    payload = call.nested("payload")
    if payload is None:
        raise missing_parameter("payload")
    if not isinstance(payload, dict):
        raise invalid_parameter("Param payload must be an object")
    schema = _read_schema(payload.get("schema"))
    data = _read_data(payload.get("data"), len(schema))
    columns = list(zip(*data, strict=True))
    invalid = {
        index
        for key, column in zip(schema, columns, strict=True)
        if key in HASHED_KEYS
        for index in _bad_hashes(column)
    }
    emails = _contact_column(schema, columns, EMAIL_KEYS, len(data))
    phones = _contact_column(schema, columns, PHONE_KEYS, len(data))
    contacts = []
    for index, (email, phone) in enumerate(zip(emails, phones, strict=True)):
        if index in invalid:
            continue
        if email or phone:
            contacts.append((bytes.fromhex(email), bytes.fromhex(phone)))
        else:
            # The seed's rule: a row must have EMAIL or PHONE.
            invalid.add(index)
    return Rows(
        schema=schema,
        contacts=contacts,
        num_rows=len(data),
        invalid={index: to_json(data[index]).decode() for index in sorted(invalid)},
        digest=hashlib.blake2b(to_json([schema, data]), digest_size=16).hexdigest(),
    )


def read_session(call: Call) -> SessionPart | None:
    """The session, or None where the caller sent none (the seed's samples send none)."""
    value = call.nested("session")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid_parameter("Param session must be an object")
    session_id = _whole(value.get("session_id"))
    batch_seq = _whole(value.get("batch_seq"))
    if not session_id:
        raise invalid_parameter("session_id must be a positive 64-bit integer")
    if batch_seq is None or batch_seq < 1:
        raise invalid_parameter("batch_seq must be an integer from 1")
    last = value.get("last_batch_flag", False)
    return SessionPart(
        session_id=session_id,
        batch_seq=batch_seq,
        last=str(last).lower() in {"true", "1"},
        estimated_total=_whole(value.get("estimated_num_total")),
    )


def _read_schema(schema: object) -> tuple[str, ...]:
    keys = (schema,) if isinstance(schema, str) else schema
    if not isinstance(keys, (tuple, list)) or not keys:
        raise missing_parameter("schema")
    names = tuple(str(key) for key in keys)
    for name in names:
        if name not in HASHED_KEYS | PLAIN_KEYS:
            known = ",".join(sorted(HASHED_KEYS | PLAIN_KEYS))
            raise invalid_parameter(f"Raw PII type is invalid, it should be one of {known}")
    if len(set(names)) != len(names):
        raise invalid_parameter("A key stands twice in the schema")
    return names


def _read_data(data: object, width: int) -> list[list[Any]]:
    if not isinstance(data, list) or not data:
        raise invalid_parameter("Data is missing or does not match schema")
    if len(data) > ROWS_PER_REQUEST:
        raise invalid_parameter(f"Up to {ROWS_PER_REQUEST} rows can be sent in one request")
    if width == 1 and not any(isinstance(row, list) for row in data):
        data = [[value] for value in data]
    if set(map(type, data)) != {list} or set(map(len, data)) != {width}:
        raise invalid_parameter("Data is missing or does not match schema")
    return data


def _contact_column(
    schema: Sequence[str], columns: Sequence[Sequence[Any]], keys: Sequence[str], length: int
) -> Sequence[str]:
    for key, column in zip(schema, columns, strict=True):
        if key in keys:
            return column
    return [""] * length


def _bad_hashes(column: Sequence[Any]) -> list[int]:
    """Where a column holds anything but "" and 64 lower-case hex digits."""
    if (
        set(map(type, column)) == {str}
        and set(map(len, column)) <= {0, 64}
        and not "".join(column).strip(_HEX)
        and HASH_OF_NOTHING not in column
    ):
        return []
    return [
        index
        for index, value in enumerate(column)
        if value != ""
        and not (isinstance(value, str) and _HASH.match(value) and value != HASH_OF_NOTHING)
    ]


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    text = str(value)
    return int(text) if re.fullmatch("[0-9]{1,19}", text) and int(text) < 2**63 else None
