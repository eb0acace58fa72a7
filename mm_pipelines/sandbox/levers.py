"""What can be done to the sandbox from outside: time, webhooks, variants, a fresh start."""

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mm_pipelines.sandbox import inspection, matching, webhooks
from mm_pipelines.sandbox.settings import Variants
from mm_pipelines.sandbox.world import World


class Redelivery(BaseModel):
    """Which delivered webhooks to send again, and in which order."""

    model_config = ConfigDict(extra="forbid")

    last: int | None = Field(default=None, ge=1, description="Only the last so many; null: all.")
    reverse: bool = False


class AudienceStatus(BaseModel):
    """The operation status to put an audience into, such as 471 (integrity flag)."""

    model_config = ConfigDict(extra="forbid")

    audience_id: str
    code: int


class Leap(BaseModel):
    """How far the sandbox's clock is to jump ahead."""

    model_config = ConfigDict(extra="forbid")

    advance_seconds: float = Field(ge=0)


async def settle(world: World) -> dict[str, Any]:
    """Do now what was due later: match every pending batch, try every pending webhook once."""
    processed = 0
    while await asyncio.to_thread(matching.process_next, world, everything=True):
        processed += 1
    await asyncio.to_thread(webhooks.hurry, world)
    async with webhooks.sender(world) as client:
        while await webhooks.deliver_due(world, client):
            pass
    return {"matched_batches": processed, **await asyncio.to_thread(inspection.idle, world)}


def redeliver(world: World, wanted: Redelivery) -> dict[str, Any]:
    """Send delivered webhooks again, with the same bytes."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT number FROM webhook WHERE delivered_at IS NOT NULL ORDER BY number"
        ).fetchall()
        numbers = [row["number"] for row in rows]
        chosen = numbers if wanted.last is None else numbers[-wanted.last :]
        if wanted.reverse:
            chosen.reverse()
        now = world.now()
        # Due one after the other, a hair apart: that is the order in which they are sent.
        db.executemany(
            "UPDATE webhook SET delivered_at = NULL, due_at = ? WHERE number = ?",
            [(now + place * 1e-4, number) for place, number in enumerate(chosen)],
        )
    return {"redelivering": len(chosen)}


def pause_webhooks(world: World, *, paused: bool) -> dict[str, Any]:
    """Hold webhooks back, or let them go again."""
    world.remember("webhooks_paused", paused)
    return inspection.webhook_counts(world)


def vary(world: World, changes: dict[str, Any]) -> dict[str, Any]:
    """Change some variants for every call from now on; raises pydantic's ValidationError."""
    with world.transaction():
        variants = Variants.model_validate({**world.variants().model_dump(), **changes})
        world.remember("variants", variants.model_dump())
    return variants.model_dump()


def set_audience_status(world: World, wanted: AudienceStatus) -> dict[str, Any]:
    """Put an audience into an operation status."""
    with world.transaction() as db:
        changed = db.execute(
            "UPDATE audience SET operation_status = ? WHERE audience_id = ?",
            (wanted.code, wanted.audience_id),
        ).rowcount
    return {"changed": changed}


def advance_clock(world: World, leap: Leap) -> dict[str, Any]:
    """Let time pass: windows close, matching falls due."""
    world.advance_clock(leap.advance_seconds)
    return {"now": world.now()}


def reset(world: World) -> dict[str, Any]:
    """Forget everything."""
    world.reset()
    return inspection.idle(world)
