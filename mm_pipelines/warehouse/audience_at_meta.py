"""The Messenger audiences of each ad account, as Meta listed them last."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, text

_FORGET = text("delete from mm.audience_at_meta where ad_account_id = :ad_account_id")

_RECORD = text("""
insert into mm.audience_at_meta
    (ad_account_id, custom_audience_id, audience, name, page_id, operation_status,
     delivery_status, lower_bound, upper_bound, differences)
values
    (:ad_account_id, :custom_audience_id, :audience, :name, :page_id, :operation_status,
     :delivery_status, :lower_bound, :upper_bound, :differences)
""")


@dataclass(frozen=True)
class ListedAudience:
    """One audience of the listing.

    Attributes:
        audience: Our key; None for one that we never delivered to.
        lower_bound: Of the people in it, by Meta; None where Meta does not tell.
        differences: The kinds of what is not as we know it.
    """

    custom_audience_id: str
    audience: str | None
    name: str | None
    page_id: str | None
    operation_status: int | None
    delivery_status: int | None
    lower_bound: int | None
    upper_bound: int | None
    differences: tuple[str, ...]


def replace(connection: Connection, ad_account_id: str, listed: Sequence[ListedAudience]) -> None:
    """Let a new listing take the place of the ad account's former one."""
    connection.execute(_FORGET, {"ad_account_id": ad_account_id})
    rows = [
        {
            **asdict(audience),
            "ad_account_id": ad_account_id,
            "differences": list(audience.differences),
        }
        for audience in listed
    ]
    if rows:
        connection.execute(_RECORD, rows)
