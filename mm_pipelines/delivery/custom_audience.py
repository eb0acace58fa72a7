"""Finds or creates the Custom Audience of an audience once, and records it."""

from dataclasses import dataclass
from typing import Self

from sqlalchemy import Connection, text

from mm_pipelines.config import Config
from mm_pipelines.delivery.errors import AudienceKeyTakenError, AudienceMismatchError
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.custom_audiences import find_or_create_custom_audience
from mm_pipelines.warehouse.database import Database, HeldLock

_FIND = text("""
select audience, custom_audience_id, page_id, ad_account_id, name
from mm.custom_audience where audience = :audience
""")

# Returns the Custom Audience with an id, or no row.
_FIND_BY_ID = text("""
select audience, custom_audience_id, page_id, ad_account_id, name
from mm.custom_audience where custom_audience_id = :custom_audience_id
""")

_RECORD = text("""
insert into mm.custom_audience (audience, custom_audience_id, page_id, ad_account_id, name)
values (:audience, :custom_audience_id, :page_id, :ad_account_id, :name)
on conflict (audience) do update
set custom_audience_id = excluded.custom_audience_id,
    page_id = excluded.page_id,
    ad_account_id = excluded.ad_account_id,
    name = excluded.name,
    created_at = now()
""")

_OF_AD_ACCOUNT = text("""
select audience, custom_audience_id, page_id, ad_account_id, name
from mm.custom_audience where ad_account_id = :ad_account_id
order by audience
""")

_ALL = text("""
select audience, custom_audience_id, page_id, ad_account_id, name
from mm.custom_audience order by audience
""")


@dataclass(frozen=True)
class CustomAudience:
    """The record of a Custom Audience at Meta."""

    audience: str
    custom_audience_id: str
    page_id: str
    ad_account_id: str
    name: str


def find(connection: Connection, audience: str) -> CustomAudience | None:
    """The Custom Audience recorded for an audience; None before it was found or created."""
    row = connection.execute(_FIND, {"audience": audience}).one_or_none()
    return CustomAudience(**row._asdict()) if row else None


def find_by_id(connection: Connection, custom_audience_id: str) -> CustomAudience | None:
    """The Custom Audience recorded with an id, whichever key it has."""
    row = connection.execute(_FIND_BY_ID, {"custom_audience_id": custom_audience_id}).one_or_none()
    return CustomAudience(**row._asdict()) if row else None


def record(connection: Connection, custom_audience: CustomAudience) -> None:
    """Record what was found or created; it replaces the former record of the key."""
    connection.execute(_RECORD, vars(custom_audience))


def of_ad_account(connection: Connection, ad_account_id: str) -> list[CustomAudience]:
    """All that are recorded for an ad account."""
    rows = connection.execute(_OF_AD_ACCOUNT, {"ad_account_id": ad_account_id})
    return [CustomAudience(**row._asdict()) for row in rows]


def all_recorded(connection: Connection) -> list[CustomAudience]:
    """All that are recorded, those of audiences no longer in mm.yaml included."""
    return [CustomAudience(**row._asdict()) for row in connection.execute(_ALL)]


@dataclass(frozen=True)
class AudienceSpec:
    """An audience in mm.yaml, as far as Meta needs it."""

    audience: str
    page_id: str
    ad_account_id: str
    name: str
    description: str

    @classmethod
    def of(cls, config: Config, audience: str) -> Self:
        """The audience with this key."""
        configured = config.audiences[audience]
        return cls(
            audience=audience,
            page_id=config.page_of(audience).page_id,
            ad_account_id=configured.ad_account_id,
            name=configured.name,
            description=configured.description,
        )


def find_or_create(
    lock: HeldLock, database: Database, client: GraphApiClient, spec: AudienceSpec
) -> tuple[CustomAudience, bool]:
    """The audience's Custom Audience, and whether it was created at Meta just now.

    It is looked up in ``mm.custom_audience``, then at Meta by its name and Page, and only then
    created. So a run that died between creating and recording does not lead to a second one.

    Args:
        lock: The audience's.
        database: Where it is recorded.
        client: With the token of the ad account.
        spec: The audience in mm.yaml.

    Raises:
        LockLostError: The lock was lost.
        AudienceMismatchError: It is recorded for another Page or ad account than mm.yaml has.
        AudienceKeyTakenError: It is recorded for another key of mm.yaml.
        GraphApiError: As `graph_api.custom_audiences.find_or_create_custom_audience`.
    """
    with database.transaction() as connection:
        known = find(connection, spec.audience)
    if known is not None:
        _check_same_place(known, spec)
        return known, False
    lock.confirm()
    custom_audience_id, created = find_or_create_custom_audience(
        client,
        spec.ad_account_id,
        name=spec.name,
        description=spec.description,
        page_id=spec.page_id,
    )
    found = CustomAudience(
        audience=spec.audience,
        custom_audience_id=custom_audience_id,
        page_id=spec.page_id,
        ad_account_id=spec.ad_account_id,
        name=spec.name,
    )
    with database.transaction() as connection:
        other = find_by_id(connection, custom_audience_id)
        if other is not None:
            raise AudienceKeyTakenError(
                f"{spec.audience}: the Custom Audience {custom_audience_id} ({spec.name}) is "
                f"recorded for the key {other.audience}. If you renamed the key, run "
                f"`mm audiences adopt {spec.audience} {custom_audience_id}`; if you want both "
                "audiences, give one of them another name in mm.yaml"
            )
        record(connection, found)
    return found, created


def _check_same_place(known: CustomAudience, spec: AudienceSpec) -> None:
    for setting, recorded, wanted in (
        ("ad_account_id", known.ad_account_id, spec.ad_account_id),
        ("page", known.page_id, spec.page_id),
    ):
        if recorded != wanted:
            raise AudienceMismatchError(
                f"{spec.audience}: mm.yaml has {setting} {wanted}, but its Custom Audience "
                f"{known.custom_audience_id} was made for {recorded}, and Meta cannot move one. "
                "Set it back, or give the audience a new key in mm.yaml"
            )
