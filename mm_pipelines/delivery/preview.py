"""What an upload would do, by counts, without a call to Meta and without a change."""

from dataclasses import dataclass, replace

from mm_pipelines.delivery import custom_audience, delta_file, deltas, ledger, membership
from mm_pipelines.delivery.membership import Change
from mm_pipelines.delivery.suppressed import SuppressedAmong, none_suppressed
from mm_pipelines.delivery.upload_plan import (
    UploadPlan,
    leaving_of_payload,
    payload_of,
    reason_to_skip,
)
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database


@dataclass(frozen=True)
class UploadPreview:
    """What a run would do, by counts.

    Attributes:
        exists: Whether there is a Custom Audience already.
        unfinished_rows: Rows of an earlier delta that would be sent first.
        members_sent_again: Members that would be sent with the new people, at most.
    """

    exists: bool
    unfinished_rows: int
    new_people: int
    removed_people: int
    members_sent_again: int
    people_in_audience: int
    skipped: str | None


def preview(
    database: Database,
    storage: Storage,
    plan: UploadPlan,
    suppressed_among: SuppressedAmong = none_suppressed,
    minimum_upload: int = 0,
) -> UploadPreview:
    """What `upload` would do now, without a call to Meta and without a change.

    The people of an unfinished upload count as members already.
    """
    payload = payload_of(database, plan)
    with database.transaction() as connection:
        target = custom_audience.find(connection, plan.spec.audience)
        custom_audience_id = target.custom_audience_id if target else ""
        members = membership.members_of(connection, custom_audience_id)
        left_over = deltas.find_open(connection, custom_audience_id, "add")
        unfinished_rows = 0
        refused = ledger.rejected_content(connection, custom_audience_id)
        if left_over:
            gaps = ledger.unrecorded_ranges(connection, left_over)
            unfinished_rows = left_over.row_count - ledger.progress(connection, left_over).rows
            count = sum(map(len, gaps))
            rest = Change(left_over, tuple(gaps), count, is_certain=True, is_final=False)
            members = replace(members, since=(*members.since, rest))
    skipped = reason_to_skip(database, plan, custom_audience_id, payload)
    new = removed = 0
    if skipped is None:
        leaving = leaving_of_payload(storage, payload, suppressed_among)
        new = payload.rows - leaving.height
        if members.count or refused:
            candidates = delta_file.payload_candidates(storage, payload, refused)
            new = delta_file.new_people(storage, candidates, members, leaving).count()
        if plan.mode == "mirror" and members.count:
            removed = delta_file.vanished_people(storage, payload, members).count()
            replaced = delta_file.replaced_people(storage, payload, members)
            removed -= replaced.count() if replaced else 0
    return UploadPreview(
        exists=target is not None,
        unfinished_rows=unfinished_rows,
        new_people=new,
        removed_people=removed,
        members_sent_again=(
            min(minimum_upload - new, members.count - removed) if 0 < new < minimum_upload else 0
        ),
        people_in_audience=members.count,
        skipped=skipped,
    )
