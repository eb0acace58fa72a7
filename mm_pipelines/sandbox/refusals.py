"""Content that Meta refuses: configured rows, schema keys and removals from small audiences.

A refusal concerns the whole request and is permanent: the same request is refused again, in any
session.
"""

import sqlite3

from pydantic import BaseModel, ConfigDict, Field

from mm_pipelines.sandbox.errors import GraphError, invalid_parameter
from mm_pipelines.sandbox.payload import HASH_PATTERN, Rows
from mm_pipelines.sandbox.world import World

SMALL_AUDIENCE_MESSAGE = (
    "Audience Size too low: You cannot remove users from this audience because it will result in a "
    "low audience size."
)


class Refusals(BaseModel):
    """The rows and schema keys that make a whole request fail with code 100."""

    model_config = ConfigDict(extra="forbid")

    hashes: frozenset[str] = Field(
        default=frozenset(),
        description="SHA-256 values of EMAIL or PHONE, as they are uploaded.",
    )
    schema_keys: frozenset[str] = Field(
        default=frozenset(), description="Keys such as GEN; a schema with one of them is refused."
    )
    operations: frozenset[str] = Field(
        default=frozenset({"add"}), description="Of add, remove and replace."
    )


class SmallAudience(BaseModel):
    """Refuse removals that would leave an audience with fewer members than `minimum_members`."""

    model_config = ConfigDict(extra="forbid")

    audience_id: str
    minimum_members: int = Field(ge=0, description="0 permits every removal again.")
    code: int = 100
    subcode: int | None = None


def configured(world: World) -> Refusals:
    """The refusals in force."""
    return Refusals.model_validate(world.recall("refusals", {}))


def configure(world: World, refusals: Refusals) -> Refusals:
    """Replace the refusals in force."""
    world.remember("refusals", refusals.model_dump(mode="json"))
    return refusals


def configure_small_audience(world: World, rule: SmallAudience) -> SmallAudience:
    """Replace an audience's minimum for removals."""
    world.remember(_small_audience_key(rule.audience_id), rule.model_dump())
    return rule


def check_request(world: World, rows: Rows, operation: str) -> None:
    """Raise GraphError 100 if the request contains a refused schema key or row."""
    refusals = configured(world)
    if operation not in refusals.operations:
        return
    if refused_keys := sorted(refusals.schema_keys.intersection(rows.schema)):
        raise invalid_parameter(f"Invalid schema key {refused_keys[0]}")
    hashes = {bytes.fromhex(value) for value in refusals.hashes if HASH_PATTERN.match(value)}
    if hashes and any(email in hashes or phone in hashes for email, phone in rows.contacts):
        raise invalid_parameter("Invalid parameter")


def check_removal(world: World, audience: sqlite3.Row, rows: Rows) -> None:
    """Raise GraphError if the removal would leave the audience too small."""
    stored = world.recall(_small_audience_key(audience["audience_id"]), None)
    if stored is None:
        return
    rule = SmallAudience.model_validate(stored)
    (members,) = world.db.execute(
        "SELECT count(*) FROM member WHERE audience = ?", (audience["number"],)
    ).fetchone()
    if members - len(rows.contacts) < rule.minimum_members:
        raise GraphError(SMALL_AUDIENCE_MESSAGE, code=rule.code, subcode=rule.subcode)


def _small_audience_key(audience_id: str) -> str:
    return f"small_audience:{audience_id}"
