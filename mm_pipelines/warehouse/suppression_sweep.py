"""Which Custom Audiences are still to be looked through for people who left.

Membership changes by deltas and suppression only grows, so an audience is clean as long as neither
has moved since it was looked through. This holds too for a payload that was hashed before somebody
left and is uploaded after.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

_DUE = text("""
select known.audience, known.custom_audience_id, known.page_id,
       delta.newest as newest_delta_id, total.suppressed
from mm.custom_audience known
cross join (select count(*) as suppressed from mm.suppression) total
cross join lateral (
    select max(id) as newest from mm.upload_delta
    where custom_audience_id = known.custom_audience_id
      and operation = 'add' and completed_at is not null
) delta
left join mm.suppression_sweep swept using (custom_audience_id)
where total.suppressed > 0 and delta.newest is not null
  and (swept.custom_audience_id is null
       or swept.suppressed < total.suppressed or swept.through_delta_id < delta.newest)
order by known.audience
""")

_RECORD = text("""
insert into mm.suppression_sweep as former
    (custom_audience_id, suppressed, through_delta_id, removed)
values (:custom_audience_id, :suppressed, :through_delta_id, :removed)
on conflict (custom_audience_id) do update
set suppressed = excluded.suppressed, through_delta_id = excluded.through_delta_id,
    removed = former.removed + excluded.removed, swept_at = now()
""")


@dataclass(frozen=True)
class DueSweep:
    """An audience in which somebody who left may still stand.

    Attributes:
        newest_delta_id: The newest delta that added people to it.
        suppressed: How many values are suppressed now.
    """

    audience: str
    custom_audience_id: str
    page_id: str
    newest_delta_id: int
    suppressed: int


def due(connection: Connection) -> list[DueSweep]:
    """The audiences to look through, by their keys."""
    return [DueSweep(**row._asdict()) for row in connection.execute(_DUE)]


def record(connection: Connection, sweep: DueSweep, removed: int) -> None:
    """Note that an audience was clean of everybody who had left when the sweep was found due."""
    connection.execute(
        _RECORD,
        {
            "custom_audience_id": sweep.custom_audience_id,
            "suppressed": sweep.suppressed,
            "through_delta_id": sweep.newest_delta_id,
            "removed": removed,
        },
    )
