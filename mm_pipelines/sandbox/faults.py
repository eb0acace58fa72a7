"""Configured faults: which calls fail, and how (`POST /_sandbox/faults`)."""

from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import from_json
from mm_pipelines.sandbox.errors import GraphError
from mm_pipelines.sandbox.settings import Variants
from mm_pipelines.sandbox.world import World


class ErrorEffect(BaseModel):
    """Any Graph error; the call is not applied."""

    model_config = ConfigDict(extra="forbid")

    code: int
    subcode: int | None = None
    message: str = "An error configured in the sandbox"
    type: str = "OAuthException"
    status: int = 400
    is_transient: bool = False
    user_title: str | None = None
    user_message: str | None = None
    error_data: dict[str, Any] | str | None = None

    def exception(self) -> GraphError:
        """The error as a call raises it."""
        return GraphError(**self.model_dump())


class FaultRule(BaseModel):
    """Which calls are hit (method to times), and what happens to them (the other fields).

    Of the calls that match, the `nth` is the first hit, then every `every`-th, `times` in all
    (null: without end). Effects combine: latency, hang and reset "before" precede the call; the
    error replaces its effect; reset "after", body and headers follow it.
    """

    model_config = ConfigDict(extra="forbid")

    method: str = "*"
    path: str = Field(default="*", description="Glob on the path without version, e.g. */users.")
    principal: str = Field(default="*", description="Glob on system_user, page:<id>, app, anyone.")
    nth: int = Field(default=1, ge=1)
    every: int = Field(default=1, ge=1)
    times: int | None = Field(default=1, ge=1)

    latency_seconds: float = Field(default=0, ge=0)
    hang: bool = Field(default=False, description="Never answer; apply nothing.")
    reset: Literal["before", "after"] | None = Field(
        default=None, description="Cut the connection before or after the call is applied."
    )
    error: ErrorEffect | None = None
    body: Literal["html", "truncated", "empty"] | None = None
    status: int | None = Field(default=None, description="HTTP status for `body`.")
    headers: dict[str, str] = Field(default_factory=dict)
    variants: dict[str, Any] = Field(default_factory=dict, description="See Variants.")

    @field_validator("variants")
    @classmethod
    def _variants_exist(cls, variants: dict[str, Any]) -> dict[str, Any]:
        Variants.model_validate(variants)
        return variants

    def matches(self, call: Call, principal: str) -> bool:
        """Whether a call counts for this rule."""
        return (
            self.method in {"*", call.method}
            and fnmatchcase(call.path, self.path)
            and fnmatchcase(principal, self.principal)
        )

    def hits(self, seen: int, fired: int) -> bool:
        """Whether the call that is the `seen`-th to match is hit."""
        if self.times is not None and fired >= self.times:
            return False
        return seen >= self.nth and (seen - self.nth) % self.every == 0


def configure(world: World, rule: FaultRule) -> int:
    """Store a fault; returns its number."""
    return world.insert("INSERT INTO fault (rule) VALUES (?)", (rule.model_dump_json(),))


def configured(world: World) -> list[dict[str, Any]]:
    """Every fault, with the number of calls that matched it and that it hit."""
    with world.transaction() as db:
        rows = db.execute("SELECT * FROM fault ORDER BY number").fetchall()
    return [
        {
            "id": row["number"],
            "rule": from_json(row["rule"]),
            "seen": row["seen"],
            "fired": row["fired"],
        }
        for row in rows
    ]


def clear(world: World, number: int | None = None) -> None:
    """Remove one fault, or all."""
    with world.transaction() as db:
        db.execute("DELETE FROM fault WHERE ? IS NULL OR number = ?", (number, number))


def hitting(world: World, call: Call, principal: str) -> list[FaultRule]:
    """The rules that hit this call; it is counted for every rule it matches."""
    hit = []
    with world.transaction() as db:
        for row in db.execute("SELECT * FROM fault ORDER BY number").fetchall():
            rule = FaultRule.model_validate_json(row["rule"])
            if not rule.matches(call, principal):
                continue
            fires = rule.hits(row["seen"] + 1, row["fired"])
            db.execute(
                "UPDATE fault SET seen = seen + 1, fired = fired + ? WHERE number = ?",
                (int(fires), row["number"]),
            )
            if fires:
                hit.append(rule)
    return hit
