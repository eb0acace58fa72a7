"""Compares an ad account's Messenger audiences, as Meta lists them, with our records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Connection, text

from mm_pipelines.delivery import custom_audience, ledger
from mm_pipelines.delivery.custom_audience import CustomAudience
from mm_pipelines.graph_api import custom_audiences as graph
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.warehouse.database import Database

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
        audience: Our key; None if we never uploaded to it.
        lower_bound: Meta's lower bound of its people; None where Meta gives none.
        differences: The kinds of differences from our records.
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
    """Replace the ad account's stored listing."""
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


Kind = Literal["missing", "foreign", "renamed", "other_page", "flagged", "too_many_people"]

MEANING: Mapping[Kind, str] = {
    "missing": "we upload to it, but Meta does not list it: was it deleted, or does the token "
    "belong to another business? If it was deleted, run `mm audiences forget` with its key and "
    "materialize audience_upload again",
    "foreign": "Meta lists it, but we never uploaded to it: a person or other software made it. "
    "`mm audiences adopt` binds it to a key",
    "renamed": "its name at Meta differs from the name in mm.yaml: change one of them",
    "other_page": "at Meta it belongs to another Page than in mm.yaml, and so do its tokens",
    "flagged": "Meta's integrity checks flagged it (471), so its members cannot be changed: "
    "appeal in Ads Manager",
    "too_many_people": "Meta counts more people in it than we uploaded: other software adds people",
}


@dataclass(frozen=True)
class Difference:
    """A difference between an audience at Meta and our records."""

    kind: Kind
    custom_audience_id: str
    name: str | None
    audience: str | None

    def __str__(self) -> str:
        label = self.audience or self.name or "without a name"
        return f"{label} ({self.custom_audience_id}): {MEANING[self.kind]}"


def list_ad_account(
    database: Database, client: GraphApiClient, ad_account_id: str, names: Mapping[str, str]
) -> tuple[list[ListedAudience], list[Difference]]:
    """List an ad account's audiences, store the listing, and return its differences from ours.

    Args:
        database: Holds our records; the listing is stored in it.
        client: With the token of the ad account.
        ad_account_id: Without ``act_``.
        names: The name in mm.yaml of each audience of this ad account, by its key.

    Raises:
        GraphApiError: As `graph_api.custom_audiences.list_custom_audiences`; nothing is written.
    """
    listed = list(graph.list_custom_audiences(client, ad_account_id))
    with database.transaction() as connection:
        recorded = custom_audience.of_ad_account(connection, ad_account_id)
        people = {
            target.custom_audience_id: ledger.people_acknowledged(connection, target.audience)
            for target in recorded
        }
        differences = compare(listed, recorded, names, people)
        rows = _rows(listed, recorded, differences)
        replace(connection, ad_account_id, rows)
    return rows, differences


def compare(
    listed: Iterable[graph.CustomAudience],
    recorded: Iterable[CustomAudience],
    names: Mapping[str, str],
    people: Mapping[str, int],
) -> list[Difference]:
    """Every difference, those of our audiences first, grouped by audience.

    Args:
        listed: Meta's listing.
        recorded: Our records.
        names: The name in mm.yaml of each audience, by its key.
        people: The number of people we uploaded, by Custom Audience id.
    """
    at_meta = {audience.id: audience for audience in listed}
    differences = []
    for known in recorded:
        found = at_meta.pop(known.custom_audience_id, None)
        differences += [
            Difference(kind, known.custom_audience_id, known.name, known.audience)
            for kind in _kinds(known, found, names, people)
        ]
    differences += [Difference("foreign", other.id, other.name, None) for other in at_meta.values()]
    return differences


def _kinds(
    known: CustomAudience,
    found: graph.CustomAudience | None,
    names: Mapping[str, str],
    people: Mapping[str, int],
) -> Iterable[Kind]:
    if found is None:
        yield "missing"
        return
    if found.name != names.get(known.audience, known.name):
        yield "renamed"
    if found.page_id not in (known.page_id, None):
        yield "other_page"
    if found.is_flagged:
        yield "flagged"
    if (found.approximate_count_lower_bound or 0) > people.get(known.custom_audience_id, 0):
        yield "too_many_people"


def _rows(
    listed: Iterable[graph.CustomAudience],
    recorded: Iterable[CustomAudience],
    differences: Iterable[Difference],
) -> list[ListedAudience]:
    ours = {known.custom_audience_id: known.audience for known in recorded}
    kinds: dict[str, list[str]] = {}
    for difference in differences:
        kinds.setdefault(difference.custom_audience_id, []).append(difference.kind)
    return [
        ListedAudience(
            custom_audience_id=found.id,
            audience=ours.get(found.id),
            name=found.name,
            page_id=found.page_id,
            operation_status=found.operation_status.code if found.operation_status else None,
            delivery_status=found.delivery_status.code if found.delivery_status else None,
            lower_bound=found.approximate_count_lower_bound,
            upper_bound=found.approximate_count_upper_bound,
            differences=tuple(kinds.get(found.id, ())),
        )
        for found in listed
    ]
