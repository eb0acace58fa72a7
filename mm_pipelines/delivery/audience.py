"""The Custom Audience of an audience: found or created once, and the same ever after."""

from dataclasses import dataclass

from mm_pipelines.delivery.errors import AudienceElsewhere
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.custom_audiences import find_or_create_custom_audience
from mm_pipelines.warehouse import custom_audience
from mm_pipelines.warehouse.custom_audience import CustomAudience
from mm_pipelines.warehouse.database import Database, HeldLock


@dataclass(frozen=True)
class AudienceSpec:
    """What mm.yaml says of an audience, as far as Meta must know it."""

    audience: str
    page_id: str
    ad_account_id: str
    name: str
    description: str


def find_or_create(
    lock: HeldLock, database: Database, client: GraphApiClient, spec: AudienceSpec
) -> tuple[CustomAudience, bool]:
    """The audience's Custom Audience, and whether it was created at Meta just now.

    It is looked for in ``mm.custom_audience``, then at Meta by its name and Page, so that a run
    that died between creating and recording does not lead to a second one; only then is it
    created.

    Args:
        lock: The audience's.
        database: Where it is recorded.
        client: With the token of the ad account.
        spec: What mm.yaml says of it.

    Raises:
        LockLost: The lock is not held any more.
        AudienceElsewhere: It is recorded for another Page or ad account than mm.yaml has.
        GraphApiError: As `graph_api.custom_audiences.find_or_create_custom_audience`.
    """
    with database.transaction() as connection:
        known = custom_audience.find(connection, spec.audience)
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
        custom_audience.record(connection, found)
    return found, created


def _check_same_place(known: CustomAudience, spec: AudienceSpec) -> None:
    for setting, recorded, wanted in (
        ("ad_account_id", known.ad_account_id, spec.ad_account_id),
        ("page", known.page_id, spec.page_id),
    ):
        if recorded != wanted:
            raise AudienceElsewhere(
                f"{spec.audience}: mm.yaml has {setting} {wanted}, but its Custom Audience "
                f"{known.custom_audience_id} was made for {recorded}, and Meta cannot move one. "
                "Set it back, or give the audience a new key in mm.yaml"
            )
