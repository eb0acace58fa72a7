"""Which Custom Audience at Meta belongs to which audience of mm.yaml."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

_FIND = text("""
select audience, custom_audience_id, page_id, ad_account_id, name
from mm.custom_audience where audience = :audience
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
    """A Custom Audience at Meta, as we know it."""

    audience: str
    custom_audience_id: str
    page_id: str
    ad_account_id: str
    name: str


def find(connection: Connection, audience: str) -> CustomAudience | None:
    """The Custom Audience recorded for an audience; None before it was found or created."""
    row = connection.execute(_FIND, {"audience": audience}).one_or_none()
    return CustomAudience(**row._asdict()) if row else None


def record(connection: Connection, custom_audience: CustomAudience) -> None:
    """Record what was found or created; another one takes the place of the former."""
    connection.execute(_RECORD, vars(custom_audience))


def of_ad_account(connection: Connection, ad_account_id: str) -> list[CustomAudience]:
    """All that are recorded for an ad account."""
    rows = connection.execute(_OF_AD_ACCOUNT, {"ad_account_id": ad_account_id})
    return [CustomAudience(**row._asdict()) for row in rows]


def all_recorded(connection: Connection) -> list[CustomAudience]:
    """All that are recorded, those of audiences no longer in mm.yaml included."""
    return [CustomAudience(**row._asdict()) for row in connection.execute(_ALL)]
