"""Delivers one day's payload to its Custom Audience."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from mm_pipelines.delivery import delta_file, deltas, ledger, membership, pauses
from mm_pipelines.delivery.anti_join import IDENTITY
from mm_pipelines.delivery.audience_uploads import AudienceUploads
from mm_pipelines.delivery.context import DeliveryContext
from mm_pipelines.delivery.custom_audience import CustomAudience, find_or_create
from mm_pipelines.delivery.delta_file import DeltaFile
from mm_pipelines.delivery.deltas import Delta, NewDelta
from mm_pipelines.delivery.due_removals import DueRemovals
from mm_pipelines.delivery.errors import AudienceTooSmallError, TooManyRemovalsError
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.removal_lists import RemovalLists
from mm_pipelines.delivery.removals import RemovalSource
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.delivery.suppressed import SuppressedAmong, none_suppressed
from mm_pipelines.delivery.top_up import ToppedUp, TopUp
from mm_pipelines.delivery.upload_plan import (
    UploadPlan,
    leaving_of_payload,
    payload_of,
    reason_to_skip,
)
from mm_pipelines.payload.registry import HashedPayload
from mm_pipelines.warehouse.database import HeldLock


@dataclass(frozen=True)
class UploadSummary:
    """What a run did.

    Attributes:
        created: The Custom Audience was created just now.
        batches: Acknowledged in this run.
        rows: In those batches, uploads and removals together.
        new_people: Of the payload, when its delta was frozen; 0 if there was nothing new.
        left_out: People excluded because they opted out or were removed meanwhile.
        former_members: People of the key's former Custom Audience, delivered to the new one.
        removed_people: Members that a mirrored list no longer contains.
        replaced_people: Members removed under a hash that their phone had by earlier rules.
        members_sent_again: Rows of people who were members already, in small uploads.
        top_up: Why members were sent again, in a sentence; None if the upload is large enough.
        invalid_entries: As Meta counts them.
        refused_rows: Rows for which Meta refuses a whole batch, isolated in this run.
        people_in_audience: Acknowledged so far, less removed.
        skipped: Why there was nothing to do; None if there was.
    """

    custom_audience: CustomAudience
    created: bool = False
    batches: int = 0
    rows: int = 0
    new_people: int = 0
    left_out: int = 0
    former_members: int = 0
    removed_people: int = 0
    replaced_people: int = 0
    members_sent_again: int = 0
    top_up: str | None = None
    invalid_entries: int = 0
    refused_rows: int = 0
    people_in_audience: int = 0
    skipped: str | None = None


def upload(
    context: DeliveryContext,
    plan: UploadPlan,
    suppressed_among: SuppressedAmong = none_suppressed,
    removal_sources: Sequence[RemovalSource] = (),
) -> UploadSummary:
    """Deliver a partition: unfinished work of earlier runs first, then the new people.

    Removals of the audience that fall due meanwhile are carried out before the next batch. An
    upload of fewer rows than ``minimum_upload`` is filled up with members.

    Args:
        context: The resources of the delivery.
        plan: What to deliver.
        suppressed_among: Returns who opted out after the payload was made: they are excluded.
        removal_sources: Where removals come from, apart from removal lists.

    Raises:
        UploadsPausedError: A person paused the uploads of the audience.
        LockTakenError: Another run has the audience's lock, or may have: ``LockLostError``.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; what was acknowledged stays so.
    """
    with context.database.transaction() as connection:
        pauses.raise_if_paused(connection, plan.spec.audience)
    with context.database.lock(f"audience:{plan.spec.audience}") as lock:
        payload = payload_of(context.database, plan)
        target, created = find_or_create(lock, context.database, context.client, plan.spec)
        sources = [RemovalLists(context.storage), *removal_sources]
        delivery = _Delivery(
            lock,
            context,
            plan,
            payload,
            suppressed_among,
            target,
            DueRemovals(context, target, sources),
        )
        return replace(delivery.run(), created=created)


class _Delivery:
    """The steps of one payload's delivery, under the audience's lock."""

    def __init__(
        self,
        lock: HeldLock,
        context: DeliveryContext,
        plan: UploadPlan,
        payload: HashedPayload,
        suppressed_among: SuppressedAmong,
        target: CustomAudience,
        removals: DueRemovals,
    ) -> None:
        self._context = context
        self._database = context.database
        self._storage = context.storage
        self._plan = plan
        self._target = target
        self._payload = payload
        self._suppressed_among = suppressed_among
        self._removals = removals
        self._progress = ProgressLog(context.say)
        self._sender = Sender(lock, context, self._progress, self._before_batch)
        custom_audience_id = target.custom_audience_id
        self._top_up = TopUp(context, custom_audience_id, suppressed_among)
        self._uploads = AudienceUploads(
            context,
            self._sender,
            removals,
            custom_audience_id,
            suppressed_among,
            top_up=self._top_up if plan.mode == "append" else None,
        )

    def run(self) -> UploadSummary:
        """Do every step."""
        left_out = self._uploads.finish_open()
        former_members = self._take_over_former_members() if self._plan.mode == "append" else 0
        skipped = reason_to_skip(
            self._database, self._plan, self._target.custom_audience_id, self._payload
        )
        summary = UploadSummary(self._target, former_members=former_members)
        if skipped is None:
            replaced = self._remove_replaced()
            removed = self._remove_vanished() if self._plan.mode == "mirror" else 0
            added = self._add_new()
            left_out += added.left_out
            summary = replace(
                summary,
                removed_people=removed,
                replaced_people=replaced,
                new_people=added.row_count - added.topped_up,
                top_up=self._reason_for_top_up(added),
            )
        if self._plan.mode == "append":
            keys = delta_file.payload_keys(self._storage, self._payload)
            left_out += self._uploads.deliver_people_still_due(keys)
        if self._progress.rows:
            self._enlarge_split_sessions(is_current=skipped is None)
            self._uploads.finish_removal()
        with self._database.transaction() as connection:
            people = ledger.people_acknowledged(connection, self._plan.spec.audience)
        return replace(
            summary,
            batches=self._progress.batches,
            rows=self._progress.rows,
            left_out=left_out,
            members_sent_again=self._progress.members_sent_again,
            invalid_entries=self._progress.invalid_entries,
            refused_rows=self._progress.refused_rows,
            people_in_audience=people,
            skipped=None if self._progress.rows else skipped,
        )

    def _before_batch(self, connection: Connection) -> None:
        pauses.raise_if_paused(connection, self._target.audience)
        self._removals.check(connection)

    def _take_over_former_members(self) -> int:
        """Deliver the people of all days to a Custom Audience that replaces a former one."""
        current = self._target.custom_audience_id
        with self._database.transaction() as connection:
            if deltas.has_uploads(connection, current):
                return 0
            former_id = deltas.former_custom_audience(connection, self._target.audience, current)
            if former_id is None:
                return 0
            former = membership.intended_members(connection, former_id)
        leaving = self._suppressed_among(former.added(self._storage).select(IDENTITY), None)
        people = delta_file.former_people(self._storage, former, leaving)
        file = delta_file.publish(self._storage, current, people, IDENTITY)
        new = replace(
            self._new_delta("add", "payload", file), source_sha256=deltas.takeover_source(former_id)
        )
        with self._database.transaction() as connection:
            delta = deltas.freeze(connection, new)
        self._uploads.finish(delta)
        return file.row_count

    def _add_new(self) -> NewDelta:
        """Add the people who are not members yet and did not opt out."""
        leaving = leaving_of_payload(self._storage, self._payload, self._suppressed_among)
        custom_audience_id = self._target.custom_audience_id
        members = membership.current(self._database, self._storage, custom_audience_id)
        with self._database.transaction() as connection:
            refused = ledger.rejected_content(connection, custom_audience_id)
        keys = delta_file.payload_keys(self._storage, self._payload)
        listed = delta_file.payload_candidates(self._storage, self._payload, refused)
        if members.rows_to_read == 0 and leaving.is_empty() and not refused:
            file = DeltaFile(self._payload.path, self._payload.rows, keys)
        else:
            people = delta_file.new_people(self._storage, listed, members, leaving)
            file = delta_file.publish(self._storage, custom_audience_id, people, keys)
        if self._plan.mode == "mirror":
            filled = self._top_up.from_list(file, listed)
        else:
            filled = self._top_up.with_members(file, members)
        return self._upload(filled, leaving.height)

    def _remove_replaced(self) -> int:
        """Remove members under the hash that their phone had by earlier rules.

        The list has them under their new hash. If Meta refuses because too few people would be
        left, the removal stays open and is tried again once people were added.
        """
        members = membership.current(self._database, self._storage, self._target.custom_audience_id)
        people = delta_file.replaced_people(self._storage, self._payload, members)
        if people is None or members.count == 0 or self._has_open_removal():
            return 0
        file = delta_file.publish(self._storage, self._target.custom_audience_id, people, IDENTITY)
        try:
            self._remove(file, "replaced")
        except AudienceTooSmallError as parked:
            self._context.say(str(parked))
        return file.row_count

    def _has_open_removal(self) -> bool:
        with self._database.transaction() as connection:
            target = self._target.custom_audience_id
            return deltas.find_open(connection, target, "remove") is not None

    def _remove(self, file: DeltaFile, origin: deltas.Origin) -> None:
        with self._database.transaction() as connection:
            delta = deltas.freeze(connection, self._new_delta("remove", origin, file))
        self._sender.finish(delta)

    def _remove_vanished(self) -> int:
        """Remove the members that the list no longer contains, unless they are too many.

        This comes before any addition, since Meta removes people by any identifier they share.
        """
        members = membership.current(self._database, self._storage, self._target.custom_audience_id)
        if members.count == 0:
            return 0
        if self._has_open_removal():
            self._context.say("Members that the list no longer contains stay: a removal is open")
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
        self._remove(file, "mirror")
        return file.row_count

    def _enlarge_split_sessions(self, *, is_current: bool) -> None:
        """Send the rows of small sessions again together, if a refusal or restart split a delta.

        Args:
            is_current: Whether the payload is the one that the audience has; a mirrored audience
                is filled up from it only.
        """
        if not self._top_up.has_split_sessions():
            return
        custom_audience_id = self._target.custom_audience_id
        nobody = DeltaFile(path="", row_count=0, keys=IDENTITY)
        if self._plan.mode == "append":
            members = membership.current(self._database, self._storage, custom_audience_id)
            filled = self._top_up.with_members(nobody, members)
        elif is_current:
            listed = delta_file.payload_candidates(self._storage, self._payload)
            filled = self._top_up.from_list(nobody, listed)
        else:
            return
        if filled.members:
            self._upload(filled)

    def _upload(self, filled: ToppedUp, left_out: int = 0) -> NewDelta:
        new = self._new_delta("add", "payload", filled.file)
        new = replace(new, left_out=left_out, topped_up=filled.members)
        with self._database.transaction() as connection:
            delta = filled.freeze(connection, new)
            for closed in deltas.still_due(connection, new.custom_audience_id):
                if self._plan.mode == "mirror" or self._is_same_payload(closed):
                    deltas.continue_in(connection, closed, delta)
        return replace(new, left_out=left_out + self._uploads.finish(delta))

    def _is_same_payload(self, closed: Delta) -> bool:
        return (closed.day, closed.source_sha256) == (self._plan.day, self._payload.sha256)

    def _new_delta(
        self, operation: deltas.Operation, origin: deltas.Origin, file: DeltaFile
    ) -> NewDelta:
        return NewDelta(
            audience=self._plan.spec.audience,
            day=self._plan.day,
            custom_audience_id=self._target.custom_audience_id,
            operation=operation,
            origin=origin,
            source_sha256=self._payload.sha256,
            path=file.path,
            row_count=file.row_count,
            keys=file.keys,
        )

    def _reason_for_top_up(self, added: NewDelta) -> str | None:
        minimum = self._context.sending.minimum_upload
        new = added.row_count - added.topped_up
        if not 0 < new < minimum:
            return None
        too_few = added.row_count < minimum
        return (
            f"{new:,} new people are fewer than minimum_upload ({minimum:,}), so "
            f"{added.topped_up:,} members were sent again with them"
            + (". The audience has no more people that can be sent" if too_few else "")
        )
