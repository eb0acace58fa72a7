"""Delivers one day's payload to its Custom Audience."""

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Literal

import polars as pl

from mm_pipelines.delivery import (
    custom_audience,
    delta_file,
    deltas,
    ledger,
    membership,
    unfinished,
)
from mm_pipelines.delivery.anti_join import IDENTITY
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.custom_audience import AudienceSpec, CustomAudience, find_or_create
from mm_pipelines.delivery.delta_file import DeltaFile
from mm_pipelines.delivery.deltas import NewDelta
from mm_pipelines.delivery.errors import (
    PayloadIncompleteError,
    PayloadMissingError,
    TooManyRemovalsError,
)
from mm_pipelines.delivery.membership import Change
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.delivery.unfinished import SuppressedAmong, none_suppressed
from mm_pipelines.payload import registry
from mm_pipelines.payload.registry import HashedPayload
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

_HASHED_WITHIN = timedelta(days=1)
"""A payload excludes people who had opted out when its hashing began, at most a day before it was
recorded."""


@dataclass(frozen=True)
class UploadPlan:
    """What to deliver, and within which limits.

    Attributes:
        mode: In ``mirror`` mode the day's list is the whole membership.
        removal_share: Share of the members: mirroring stops where more would be removed.
        accept_removals: Remove them nevertheless.
    """

    spec: AudienceSpec
    day: date
    mode: Literal["append", "mirror"] = "append"
    removal_share: float = 0.30
    accept_removals: bool = False


@dataclass(frozen=True)
class UploadSummary:
    """What a run did.

    Attributes:
        created: The Custom Audience was created just now.
        batches: Acknowledged in this run.
        rows: In those batches, uploads and removals together.
        new_people: Of the payload, when its delta was frozen; 0 if there was nothing new.
        left_out: People excluded because they opted out or were removed meanwhile.
        removed_people: Members that a mirrored list no longer contains.
        invalid_entries: As Meta counts them.
        refused_rows: Rows for which Meta refuses a whole batch, isolated in this run.
        people_in_audience: Acknowledged so far, less removed.
        skipped: Why there was nothing to do; None if there was.
    """

    custom_audience: CustomAudience
    created: bool
    batches: int = 0
    rows: int = 0
    new_people: int = 0
    left_out: int = 0
    removed_people: int = 0
    invalid_entries: int = 0
    refused_rows: int = 0
    people_in_audience: int = 0
    skipped: str | None = None


@dataclass(frozen=True)
class UploadPreview:
    """What a run would do, by counts.

    Attributes:
        exists: Whether there is a Custom Audience already.
        unfinished_rows: Rows of an earlier delta that would be sent first.
    """

    exists: bool
    unfinished_rows: int
    new_people: int
    removed_people: int
    people_in_audience: int
    skipped: str | None


def upload(
    context: DeliveryContext,
    plan: UploadPlan,
    suppressed_among: SuppressedAmong = none_suppressed,
) -> UploadSummary:
    """Deliver a partition: unfinished work of earlier runs first, then the new people.

    Args:
        context: The resources of the delivery.
        plan: What to deliver.
        suppressed_among: Returns who opted out after the payload was made: they are excluded.

    Raises:
        LockTakenError: Another run has the audience's lock, or may have: ``LockLostError``.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; what was acknowledged stays so.
    """
    database, storage = context.database, context.storage
    audience = plan.spec.audience
    with database.lock(f"audience:{audience}") as lock:
        payload = _payload(database, plan)
        target, created = find_or_create(lock, database, context.client, plan.spec)
        progress = ProgressLog(context.say)
        sender = Sender(lock, context, progress)
        delivery = _Delivery(context, sender, plan, target, payload)
        earlier = unfinished.Unfinished(
            context, sender, target.custom_audience_id, suppressed_among
        )
        left_out = earlier.finish()
        skipped = _reason_to_skip(database, plan, target.custom_audience_id, payload)
        summary = UploadSummary(target, created)
        if skipped is None:
            removed = delivery.remove_vanished() if plan.mode == "mirror" else 0
            leaving = _leaving(storage, payload, suppressed_among)
            left_out += leaving.height
            new = delivery.add_new(leaving)
            summary = replace(summary, new_people=new, removed_people=removed)
        if plan.mode == "append":
            left_out += earlier.deliver_people_still_due(delta_file.payload_keys(storage, payload))
        if progress.rows:
            earlier.finish_removal()
        with database.transaction() as connection:
            people = ledger.people_acknowledged(connection, audience)
    return replace(
        summary,
        batches=progress.batches,
        rows=progress.rows,
        left_out=left_out,
        invalid_entries=progress.invalid_entries,
        refused_rows=progress.refused_rows,
        people_in_audience=people,
        skipped=None if progress.rows else skipped,
    )


def preview(
    database: Database,
    storage: Storage,
    plan: UploadPlan,
    suppressed_among: SuppressedAmong = none_suppressed,
) -> UploadPreview:
    """What `upload` would do now, without a call to Meta and without a change.

    The people of an unfinished upload count as members already.
    """
    payload = _payload(database, plan)
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
            rest = Change(left_over, tuple(gaps), is_certain=True, is_final=False)
            members = replace(members, since=(*members.since, rest))
    skipped = _reason_to_skip(database, plan, custom_audience_id, payload)
    new = removed = 0
    if skipped is None:
        leaving = _leaving(storage, payload, suppressed_among)
        new = payload.rows - leaving.height
        if members.count or refused:
            candidates = delta_file.payload_candidates(storage, payload, refused)
            new = delta_file.new_people(storage, candidates, members, leaving).count()
        if plan.mode == "mirror" and members.count:
            removed = delta_file.vanished_people(storage, payload, members).count()
    return UploadPreview(
        exists=target is not None,
        unfinished_rows=unfinished_rows,
        new_people=new,
        removed_people=removed,
        people_in_audience=members.count,
        skipped=skipped,
    )


class _Delivery:
    """The steps of one payload's delivery."""

    def __init__(
        self,
        context: DeliveryContext,
        sender: Sender,
        plan: UploadPlan,
        target: CustomAudience,
        payload: HashedPayload,
    ) -> None:
        self._database = context.database
        self._storage = context.storage
        self._sender = sender
        self._plan = plan
        self._target = target
        self._payload = payload

    def add_new(self, leaving: pl.DataFrame) -> int:
        """Add the people who are not members yet, without those in ``leaving``."""
        custom_audience_id = self._target.custom_audience_id
        members = membership.current(self._database, self._storage, custom_audience_id)
        with self._database.transaction() as connection:
            refused = ledger.rejected_content(connection, custom_audience_id)
        keys = delta_file.payload_keys(self._storage, self._payload)
        if members.rows_to_read == 0 and leaving.is_empty() and not refused:
            file = DeltaFile(self._payload.path, self._payload.rows, keys)
        else:
            candidates = delta_file.payload_candidates(self._storage, self._payload, refused)
            people = delta_file.new_people(self._storage, candidates, members, leaving)
            file = delta_file.publish(self._storage, custom_audience_id, people, keys)
        self._deliver(file, "add", leaving.height)
        return file.row_count

    def remove_vanished(self) -> int:
        """Remove the members that the list no longer contains, unless they are too many.

        This comes before any addition, since Meta removes people by any identifier they share.
        """
        members = membership.current(self._database, self._storage, self._target.custom_audience_id)
        if members.count == 0:
            return 0
        people = delta_file.vanished_people(self._storage, self._payload, members)
        file = delta_file.publish(self._storage, self._target.custom_audience_id, people, IDENTITY)
        share = file.row_count / members.count
        if share > self._plan.removal_share and not self._plan.accept_removals:
            raise TooManyRemovalsError(
                f"{self._plan.spec.audience}, {self._plan.day}: this list would remove "
                f"{file.row_count:,} of the {members.count:,} people in the audience, "
                f"{share:.0%} where removal_share allows {self._plan.removal_share:.0%}. None "
                "was removed. If the list is complete, launch audience_upload of this partition "
                "with the run config accept_removals: true; if not, correct the list"
            )
        self._deliver(file, "remove")
        return file.row_count

    def _deliver(
        self, file: DeltaFile, operation: Literal["add", "remove"], left_out: int = 0
    ) -> None:
        new = NewDelta(
            audience=self._plan.spec.audience,
            day=self._plan.day,
            custom_audience_id=self._target.custom_audience_id,
            operation=operation,
            origin="payload" if operation == "add" else "mirror",
            source_sha256=self._payload.sha256,
            path=file.path,
            row_count=file.row_count,
            keys=file.keys,
            left_out=left_out,
        )
        with self._database.transaction() as connection:
            delta = deltas.freeze(connection, new)
            if operation == "add":
                for closed in deltas.still_due(connection, new.custom_audience_id):
                    is_same = (closed.day, closed.source_sha256) == (new.day, new.source_sha256)
                    if is_same or self._plan.mode == "mirror":
                        deltas.continue_in(connection, closed, delta)
        self._sender.finish(delta)


def _payload(database: Database, plan: UploadPlan) -> HashedPayload:
    with database.transaction() as connection:
        payload = registry.current(connection, plan.spec.audience, plan.day)
    if payload is None:
        raise PayloadMissingError(
            f"{plan.spec.audience}, {plan.day}: there is no hashed payload of this partition; "
            "materialize hashed_payload first"
        )
    if not payload.no_row_lost:
        raise PayloadIncompleteError(
            f"{plan.spec.audience}, {plan.day}: rows of the list are unaccounted for in the hashed "
            "payload (check no_row_lost), so it is not uploaded. Materialize hashed_payload again; "
            "if the check still fails, report it"
        )
    return payload


def _leaving(
    storage: Storage, payload: HashedPayload, suppressed_among: SuppressedAmong
) -> pl.DataFrame:
    """The identifiers in the payload of people who opted out after it was made."""
    since = payload.created_at - _HASHED_WITHIN if payload.created_at else None
    return suppressed_among(delta_file.payload_people(storage, payload), since)


def _reason_to_skip(
    database: Database, plan: UploadPlan, custom_audience_id: str, payload: HashedPayload
) -> str | None:
    with database.transaction() as connection:
        last = deltas.latest(connection, custom_audience_id, plan.day, "payload")
        newest_day = deltas.newest_day(connection, custom_audience_id)
    if last is not None and last.source_sha256 == payload.sha256 and last.closed_at is None:
        return "this payload was delivered already"
    if plan.mode == "mirror" and newest_day is not None and newest_day > plan.day:
        return f"the audience mirrors a newer list already, that of {newest_day}"
    return None
