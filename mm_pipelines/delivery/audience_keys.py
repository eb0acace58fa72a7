"""Binds keys of mm.yaml to Custom Audiences, and releases them."""

from sqlalchemy import Connection, text

from mm_pipelines.delivery import custom_audience
from mm_pipelines.delivery.custom_audience import AudienceSpec, CustomAudience
from mm_pipelines.delivery.errors import AudienceKeyTakenError, AudienceMismatchError
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.custom_audiences import get_custom_audience
from mm_pipelines.warehouse.database import Database

_FORGET = text("delete from mm.custom_audience where audience = :audience")

# The ledger belongs to the Custom Audience, so all of its rows get the new key.
_MOVE = [
    text(f"update mm.{table} set audience = :key where audience = :former")
    for table in ("upload_delta", "upload_batch", "removal_batch")
]

# What both keys have is kept as the new key has it.
_MOVE_MISSING = [
    text(f"""
update mm.{table} as moved set audience = :key
where audience = :former and not exists (
    select from mm.{table} as present where present.audience = :key and present.day = moved.day
)
""")
    for table in ("hashed_payload", "rejected_row", "match_status")
]


def adopt(
    database: Database, client: GraphApiClient, spec: AudienceSpec, custom_audience_id: str
) -> CustomAudience:
    """Bind a key of mm.yaml to a Custom Audience that exists at Meta.

    If another key was bound to it, its history moves to this one.

    Args:
        database: The ledger.
        client: With the token of the ad account.
        spec: The audience in mm.yaml.
        custom_audience_id: The Custom Audience at Meta.

    Raises:
        AudienceKeyTakenError: The key is bound to another Custom Audience.
        AudienceMismatchError: The Custom Audience makes subscribers of another Page.
        LockTakenError: A run is delivering to one of the two audiences.
        GraphApiError: Meta has no such Custom Audience, or does not answer.
    """
    at_meta = get_custom_audience(client, custom_audience_id)
    if at_meta.page_id is not None and at_meta.page_id != spec.page_id:
        raise AudienceMismatchError(
            f"{spec.audience}: mm.yaml has page {spec.page_id}, but the Custom Audience "
            f"{custom_audience_id} makes subscribers of Page {at_meta.page_id}"
        )
    adopted = CustomAudience(
        audience=spec.audience,
        custom_audience_id=custom_audience_id,
        page_id=spec.page_id,
        ad_account_id=spec.ad_account_id,
        name=at_meta.name or spec.name,
    )
    with database.transaction() as connection:
        former = custom_audience.find_by_id(connection, custom_audience_id)
    names = sorted({spec.audience, former.audience if former else spec.audience})
    with database.lock(f"audience:{names[0]}"):
        if len(names) == 1:
            _bind(database, adopted, former)
        else:
            with database.lock(f"audience:{names[1]}"):
                _bind(database, adopted, former)
    return adopted


def forget(database: Database, audience: str) -> CustomAudience | None:
    """Release a key: the next upload finds or creates its Custom Audience by name.

    The history stays, and counts again if the same Custom Audience is found.

    Returns:
        The Custom Audience it was bound to; None if there was none.

    Raises:
        LockTakenError: A run is delivering to the audience.
    """
    with database.lock(f"audience:{audience}"), database.transaction() as connection:
        known = custom_audience.find(connection, audience)
        connection.execute(_FORGET, {"audience": audience})
    return known


def _bind(database: Database, adopted: CustomAudience, former: CustomAudience | None) -> None:
    with database.transaction() as connection:
        present = custom_audience.find(connection, adopted.audience)
        if present is not None and present.custom_audience_id != adopted.custom_audience_id:
            raise AudienceKeyTakenError(
                f"{adopted.audience}: this key is bound to the Custom Audience "
                f"{present.custom_audience_id}; run `mm audiences forget {adopted.audience}` first"
            )
        if former is not None and former.audience != adopted.audience:
            _move_history(connection, former.audience, adopted.audience)
        custom_audience.record(connection, adopted)


def _move_history(connection: Connection, former: str, key: str) -> None:
    connection.execute(_FORGET, {"audience": former})
    for statement in (*_MOVE, *_MOVE_MISSING):
        connection.execute(statement, {"key": key, "former": former})
