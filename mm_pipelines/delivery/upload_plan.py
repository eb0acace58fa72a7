"""What an upload is to deliver, and whether there is anything to deliver."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, Self

import polars as pl

from mm_pipelines.config import Config
from mm_pipelines.delivery import delta_file, deltas
from mm_pipelines.delivery.custom_audience import AudienceSpec
from mm_pipelines.delivery.errors import PayloadIncompleteError, PayloadMissingError
from mm_pipelines.delivery.suppressed import SuppressedAmong
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

    @classmethod
    def of(cls, config: Config, audience: str, day: date, *, accept_removals: bool = False) -> Self:
        """How mm.yaml wants a day of an audience delivered."""
        return cls(
            spec=AudienceSpec.of(config, audience),
            day=day,
            mode=config.audiences[audience].mode,
            removal_share=config.settings.removal_share,
            accept_removals=accept_removals,
        )


def payload_of(database: Database, plan: UploadPlan) -> HashedPayload:
    """The hashed payload to deliver.

    Raises:
        PayloadMissingError: There is none.
        PayloadIncompleteError: Rows of the list are unaccounted for in it.
    """
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


def leaving_of_payload(
    storage: Storage, payload: HashedPayload, suppressed_among: SuppressedAmong
) -> pl.DataFrame:
    """The identifiers in the payload of people who opted out after it was made."""
    since = payload.created_at - _HASHED_WITHIN if payload.created_at else None
    return suppressed_among(delta_file.payload_people(storage, payload), since)


def reason_to_skip(
    database: Database, plan: UploadPlan, custom_audience_id: str, payload: HashedPayload
) -> str | None:
    """Why there is nothing to deliver of a payload; None if there is."""
    with database.transaction() as connection:
        last = deltas.latest(connection, custom_audience_id, plan.day, "payload")
        newest_day = deltas.newest_day(connection, custom_audience_id)
        taken_over = deltas.was_taken_over(connection, custom_audience_id, plan.day, payload.sha256)
    if last is not None and last.source_sha256 == payload.sha256 and last.closed_at is None:
        return "this payload was delivered already"
    if last is None and taken_over:
        return "this payload's people were delivered with the former Custom Audience's"
    if plan.mode == "mirror" and newest_day is not None and newest_day > plan.day:
        return f"the audience mirrors a newer list already, that of {newest_day}"
    return None
