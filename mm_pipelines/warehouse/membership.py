"""Which file holds a Custom Audience's members, up to which delta."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

_FIND = text("""
select path, people, through_delta_id from mm.membership
where custom_audience_id = :custom_audience_id
""")

_RECORD = text("""
insert into mm.membership (custom_audience_id, path, people, through_delta_id)
values (:custom_audience_id, :path, :people, :through_delta_id)
on conflict (custom_audience_id) do update
set path = excluded.path, people = excluded.people,
    through_delta_id = excluded.through_delta_id, written_at = now()
""")


@dataclass(frozen=True)
class MembershipFile:
    """The members after the delta ``through_delta_id``: a Parquet file with EMAIL and PHONE."""

    path: str
    people: int
    through_delta_id: int


def find(connection: Connection, custom_audience_id: str) -> MembershipFile | None:
    """The recorded file; None before the first was written."""
    row = connection.execute(_FIND, {"custom_audience_id": custom_audience_id}).one_or_none()
    return MembershipFile(**row._asdict()) if row else None


def record(connection: Connection, custom_audience_id: str, file: MembershipFile) -> None:
    """Let a newer file take the place of the former."""
    connection.execute(_RECORD, {"custom_audience_id": custom_audience_id, **vars(file)})
