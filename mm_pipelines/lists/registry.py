"""The lists that ``customer_list`` validated, in ``mm.customer_list``."""

import json
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, text

from mm_pipelines.identity import PhoneConvention
from mm_pipelines.lists.report import ListReport

# Replaces what is known of a partition's list.
_RECORD = text("""
insert into mm.customer_list (audience, day, fingerprint, rows, files, columns, phone_convention)
values (:audience, :day, :fingerprint, :rows, cast(:files as jsonb), cast(:columns as jsonb),
        cast(:phone_convention as jsonb))
on conflict (audience, day) do update
set fingerprint = excluded.fingerprint, rows = excluded.rows, files = excluded.files,
    columns = excluded.columns, phone_convention = excluded.phone_convention,
    validated_at = now()
""")

# Returns what hashing needs of a partition's list.
_VALIDATED = text("""
select fingerprint, phone_convention::text from mm.customer_list
where audience = :audience and day = :day
""")

# Returns the schema keys that a partition's list has a column for.
_COLUMNS = text("""
select jsonb_object_keys(columns) from mm.customer_list where audience = :audience and day = :day
""")


@dataclass(frozen=True)
class ValidatedList:
    """A list that may be hashed.

    Attributes:
        fingerprint: Of the bytes that were validated.
        phone_convention: How the list writes bare phone numbers.
    """

    fingerprint: str
    phone_convention: PhoneConvention


def record(connection: Connection, audience: str, day: date, report: ListReport) -> None:
    """Record the partition's list as validated, in place of an earlier one."""
    files = [
        {
            "name": file.name,
            "rows_before": file.rows_before,
            "rows": file.rows,
            "fingerprint": file.fingerprint,
        }
        for file in report.files
    ]
    connection.execute(
        _RECORD,
        {
            "audience": audience,
            "day": day,
            "fingerprint": report.fingerprint,
            "rows": report.rows,
            "files": json.dumps(files),
            "columns": json.dumps(report.columns),
            "phone_convention": report.phone_spellings.convention().to_json(),
        },
    )


def validated(connection: Connection, audience: str, day: date) -> ValidatedList | None:
    """Return the partition's validated list; None before the first validation."""
    row = connection.execute(_VALIDATED, {"audience": audience, "day": day}).one_or_none()
    if row is None:
        return None
    return ValidatedList(row.fingerprint, PhoneConvention.from_json(row.phone_convention))


def columns(connection: Connection, audience: str, day: date) -> set[str]:
    """Return the schema keys that the list has a column for; empty before its validation."""
    return set(connection.execute(_COLUMNS, {"audience": audience, "day": day}).scalars())
