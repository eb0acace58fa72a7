"""One day's payload delivered to its Custom Audience."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Literal

import polars as pl

from mm_pipelines.delivery import custom_audience, delta_file, deltas, ledger, membership
from mm_pipelines.delivery.anti_join import IDENTITY
from mm_pipelines.delivery.custom_audience import AudienceSpec, CustomAudience, find_or_create
from mm_pipelines.delivery.delta_file import DeltaFile
from mm_pipelines.delivery.errors import PayloadMissingError, TooManyRemovalsError
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.sender import Sender, Sending
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.payload import registry
from mm_pipelines.payload.registry import HashedPayload
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

SuppressedAmong = Callable[[pl.LazyFrame, datetime | None], pl.DataFrame]
"""Returns, of EMAIL and PHONE hashes, those suppressed at a time or later."""

_HASHED_WITHIN = timedelta(days=1)
"""Generous: a payload knows who had left when its hashing began, and is recorded when it ends."""


def none_suppressed(people: pl.LazyFrame, since: datetime | None) -> pl.DataFrame:  # noqa: ARG001
    """`SuppressedAmong` for an empty suppression list."""
    return pl.DataFrame(schema=dict.fromkeys(IDENTITY, pl.String))


@dataclass(frozen=True)
class UploadPlan:
    """What is delivered, and within which limits.

    Attributes:
        mode: ``mirror`` takes the day's list for the whole membership.
        removal_share: Of the members: mirroring stops where more would be removed.
        accept_removals: Remove them all the same.
    """

    spec: AudienceSpec
    day: date
    mode: Literal["append", "mirror"] = "append"
    removal_share: float = 0.30
    accept_removals: bool = False
    sending: Sending = field(default_factory=Sending)


@dataclass(frozen=True)
class UploadSummary:
    """What a run did.

    Attributes:
        created: The Custom Audience was created just now.
        batches: Acknowledged in this run.
        rows: In those batches, uploads and removals together.
        new_people: Of the payload, when its delta was frozen; 0 if there was nothing new.
        left_out: People of the payload who asked to leave since it was made.
        removed_people: Whom a mirrored list no longer has.
        invalid_entries: As Meta counts them.
        people_in_audience: Acknowledged so far, less removed.
        skipped: Why nothing was to be done; None if something was.
    """

    custom_audience: CustomAudience
    created: bool
    batches: int = 0
    rows: int = 0
    new_people: int = 0
    left_out: int = 0
    removed_people: int = 0
    invalid_entries: int = 0
    people_in_audience: int = 0
    skipped: str | None = None


@dataclass(frozen=True)
class UploadPreview:
    """What a run would do, by counts.

    Attributes:
        exists: There is a Custom Audience already.
        unfinished_rows: Left of an earlier delta, sent first.
    """

    exists: bool
    unfinished_rows: int
    new_people: int
    removed_people: int
    people_in_audience: int
    skipped: str | None


def upload(
    database: Database,
    storage: Storage,
    client: GraphApiClient,
    plan: UploadPlan,
    say: Callable[[str], None],
    suppressed_among: SuppressedAmong = none_suppressed,
) -> UploadSummary:
    """Deliver a partition: first what earlier runs left unfinished, then who is new.

    Args:
        database: The ledger.
        storage: Where payloads, members and deltas are.
        client: With the token of the audience's ad account.
        plan: What is delivered.
        say: Takes lines about the progress.
        suppressed_among: Tells who asked to leave after the payload was made: they are left out.

    Raises:
        LockTakenError: Another run is at work on the audience, or may be: ``LockLostError``.
        DeliveryError: See `delivery.errors`.
        GraphApiError: See `graph_api.errors`; what was acknowledged stays so.
    """
    audience = plan.spec.audience
    with database.lock(f"audience:{audience}") as lock:
        payload = _payload(database, plan)
        target, created = find_or_create(lock, database, client, plan.spec)
        progress = ProgressLog(say)
        sender = Sender(lock, database, storage, client, plan.sending, progress)
        sender.finish_open(target.custom_audience_id)
        summary = UploadSummary(target, created)
        skipped = _reason_to_skip(database, plan, target.custom_audience_id, payload)
        if skipped is None:
            delivery = _Delivery(database, storage, sender, plan, target, payload)
            removed = delivery.remove_vanished() if plan.mode == "mirror" else 0
            leaving = _leaving(storage, payload, suppressed_among)
            summary = replace(
                summary,
                new_people=delivery.add_new(leaving),
                left_out=leaving.height,
                removed_people=removed,
            )
        with database.transaction() as connection:
            people = ledger.people_acknowledged(connection, audience)
    return replace(
        summary,
        batches=progress.batches,
        rows=progress.rows,
        invalid_entries=progress.invalid_entries,
        people_in_audience=people,
        skipped=None if progress.rows else skipped,
    )


def preview(
    database: Database,
    storage: Storage,
    plan: UploadPlan,
    suppressed_among: SuppressedAmong = none_suppressed,
) -> UploadPreview:
    """What `upload` would do now, without a call to Meta and without a trace.

    An unfinished delta is counted by itself; its people count as members already.
    """
    payload = _payload(database, plan)
    with database.transaction() as connection:
        target = custom_audience.find(connection, plan.spec.audience)
        custom_audience_id = target.custom_audience_id if target else ""
        unfinished = deltas.find_open(connection, custom_audience_id)
        unfinished_rows = 0
        standing = membership.members_of(connection, custom_audience_id)
        if unfinished:
            done = ledger.progress(connection, unfinished).rows
            unfinished_rows = unfinished.row_count - done
            standing = replace(standing, since=(*standing.since, unfinished))
    skipped = _reason_to_skip(database, plan, custom_audience_id, payload)
    new = removed = 0
    if skipped is None:
        leaving = _leaving(storage, payload, suppressed_among)
        new = payload.rows - leaving.height
        if standing.count:
            new = delta_file.new_people(storage, payload, standing, leaving).count()
        if plan.mode == "mirror" and standing.count:
            removed = delta_file.vanished_people(storage, payload, standing).count()
    return UploadPreview(
        exists=target is not None,
        unfinished_rows=unfinished_rows,
        new_people=new,
        removed_people=removed,
        people_in_audience=standing.count,
        skipped=skipped,
    )


class _Delivery:
    """The steps of one payload's delivery."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        sender: Sender,
        plan: UploadPlan,
        target: CustomAudience,
        payload: HashedPayload,
    ) -> None:
        self._database = database
        self._storage = storage
        self._sender = sender
        self._plan = plan
        self._target = target
        self._payload = payload

    def add_new(self, leaving: pl.DataFrame) -> int:
        """Add who is no member yet, less those who leave; the payload itself if that is all."""
        standing = membership.current(
            self._database, self._storage, self._target.custom_audience_id
        )
        keys = delta_file.payload_keys(self._storage, self._payload)
        if standing.count == 0 and leaving.is_empty():
            file = DeltaFile(self._payload.path, self._payload.rows, keys)
        else:
            people = delta_file.new_people(self._storage, self._payload, standing, leaving)
            file = delta_file.publish(self._storage, self._target.custom_audience_id, people, keys)
        self._deliver(file, "add")
        return file.row_count

    def remove_vanished(self) -> int:
        """Remove the members whom the list no longer has, if they are not too many.

        Before anybody is added: Meta takes people out by any identifier that they share.
        """
        standing = membership.current(
            self._database, self._storage, self._target.custom_audience_id
        )
        if standing.count == 0:
            return 0
        people = delta_file.vanished_people(self._storage, self._payload, standing)
        file = delta_file.publish(self._storage, self._target.custom_audience_id, people, IDENTITY)
        share = file.row_count / standing.count
        if share > self._plan.removal_share and not self._plan.accept_removals:
            raise TooManyRemovalsError(
                f"{self._plan.spec.audience}, {self._plan.day}: this list would remove "
                f"{file.row_count:,} of the {standing.count:,} people in the audience, "
                f"{share:.0%} where removal_share allows {self._plan.removal_share:.0%}. None "
                "was removed. If "
                "the list is whole, launch audience_upload of this partition with the run config "
                "accept_removals: true; if not, mend the list"
            )
        self._deliver(file, "remove")
        return file.row_count

    def _deliver(self, file: DeltaFile, operation: Literal["add", "remove"]) -> None:
        delta = delta_file.freeze(
            self._database,
            file,
            audience=self._plan.spec.audience,
            day=self._plan.day,
            custom_audience_id=self._target.custom_audience_id,
            operation=operation,
            origin="payload" if operation == "add" else "mirror",
            source_sha256=self._payload.sha256,
        )
        self._sender.finish(delta)


def _payload(database: Database, plan: UploadPlan) -> HashedPayload:
    with database.transaction() as connection:
        payload = registry.current(connection, plan.spec.audience, plan.day)
    if payload is None:
        raise PayloadMissingError(
            f"{plan.spec.audience}, {plan.day}: there is no hashed payload of this partition; "
            "materialise hashed_payload first"
        )
    return payload


def _leaving(
    storage: Storage, payload: HashedPayload, suppressed_among: SuppressedAmong
) -> pl.DataFrame:
    """The identifiers in the payload of people who left after it was made."""
    since = payload.created_at - _HASHED_WITHIN if payload.created_at else None
    return suppressed_among(delta_file.payload_people(storage, payload), since)


def _reason_to_skip(
    database: Database, plan: UploadPlan, custom_audience_id: str, payload: HashedPayload
) -> str | None:
    with database.transaction() as connection:
        last = deltas.latest(connection, custom_audience_id, plan.day, "payload")
        newest_day = deltas.newest_day(connection, custom_audience_id)
    if last is not None and last.source_sha256 == payload.sha256:
        return "this payload was delivered already"
    if plan.mode == "mirror" and newest_day is not None and newest_day > plan.day:
        return f"the audience mirrors a newer list already, that of {newest_day}"
    return None
