"""The `payload` and `session` parameters of uploads and removals, checked in bulk.

A batch has up to 10,000 rows of several 64-character values, so whole columns are checked first.
Single values are checked only in a column that contains an invalid one.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
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
HASH_PATTERN = re.compile(r"[0-9a-f]{64}\Z")
# No e-mail address is empty: this is the hash of a value that should have been "".
HASH_OF_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Rows:
    """The rows of one request.

    Attributes:
        contacts: (e-mail, phone) hashes of the valid rows, as bytes, empty where absent.
        invalid: The invalid rows as JSON, by their index from 0.
        first: The first 100 rows as JSON, by their index.
    """

    schema: tuple[str, ...]
    contacts: list[tuple[bytes, bytes]] = field(repr=False)
    num_rows: int
    invalid: dict[int, str] = field(repr=False)
    first: dict[int, str] = field(repr=False)
    digest: str

    def samples(self, shape: str) -> dict[str, str] | list[str]:
        """`invalid_entry_samples` in one of its documented shapes, at most 100."""
        return _in_shape(self.invalid, shape)

    def first_rows(self, shape: str) -> dict[str, str] | list[str]:
        """The first rows, valid or not, in the same shape."""
        return _in_shape(self.first, shape)


@dataclass(frozen=True)
class SessionPart:
    """The `session` parameter: the position of this batch in its session."""

    session_id: int
    batch_seq: int
    last: bool
    estimated_total: int | None


def read_rows(call: Call) -> Rows:
    """The rows of the payload; GraphError 100 if the request as a whole cannot be read."""
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
            # Every row needs EMAIL or PHONE.
            invalid.add(index)
    return Rows(
        schema=schema,
        contacts=contacts,
        num_rows=len(data),
        invalid=_as_json(data, sorted(invalid)),
        first=_as_json(data, range(min(len(data), SAMPLES_PER_ANSWER))),
        digest=hashlib.blake2b(to_json([schema, data]), digest_size=16).hexdigest(),
    )


def read_session(call: Call) -> SessionPart | None:
    """The session; None if the caller sent none, as in Meta's samples."""
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
        raise invalid_parameter("A key occurs twice in the schema")
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
    """Indexes of the values that are neither "" nor 64 lower-case hex digits."""
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
        and not (isinstance(value, str) and HASH_PATTERN.match(value) and value != HASH_OF_NOTHING)
    ]


def _as_json(data: Sequence[Sequence[Any]], indexes: Iterable[int]) -> dict[int, str]:
    return {index: to_json(data[index]).decode() for index in indexes}


def _in_shape(rows: dict[int, str], shape: str) -> dict[str, str] | list[str]:
    chosen = list(rows.items())[:SAMPLES_PER_ANSWER]
    if shape == "map":
        return {str(index): row for index, row in chosen}
    if shape == "array":
        return [row for _, row in chosen]
    return {} if shape == "empty_map" else []


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    text = str(value)
    return int(text) if re.fullmatch("[0-9]{1,19}", text) and int(text) < 2**63 else None
