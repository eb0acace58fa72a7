"""Configured faults: which calls and webhooks fail, and how.

They are set by `POST /_sandbox/faults` and `POST /_sandbox/webhooks/faults`.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

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


class Occurrences(BaseModel):
    """Of all matches, the `nth` is the first hit, then every `every`-th, `times` in all."""

    model_config = ConfigDict(extra="forbid")

    nth: int = Field(default=1, ge=1)
    every: int = Field(default=1, ge=1)
    times: int | None = Field(default=1, ge=1, description="null: without end.")

    def hits(self, seen: int, fired: int) -> bool:
        """Whether the `seen`-th match is hit."""
        if self.times is not None and fired >= self.times:
            return False
        return seen >= self.nth and (seen - self.nth) % self.every == 0


class FaultRule(Occurrences):
    """Which calls are hit, and what happens to them.

    Effects combine: latency, hang and reset "before" precede the call; the error replaces its
    effect; reset "after", body and headers follow it.
    """

    method: str = "*"
    path: str = Field(default="*", description="Glob on the path without version, e.g. */users.")
    principal: str = Field(default="*", description="Glob on system_user, page:<id>, app, anyone.")

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


class WebhookFault(Occurrences):
    """Which webhooks are lost, doubled or late, in the order in which they are made."""

    field: str = Field(default="*", description="Glob on the webhook field.")

    lost: bool = Field(default=False, description="Never send it.")
    copies: int = Field(default=1, ge=1, description="Send it so often, with the same bytes.")
    delay_seconds: float = Field(default=0, ge=0, description="Send it so much later.")

    def matches(self, field: str) -> bool:
        """Whether a webhook counts for this rule."""
        return fnmatchcase(field, self.field)


Rule = TypeVar("Rule", FaultRule, WebhookFault)

_TABLES: dict[type[Occurrences], str] = {FaultRule: "fault", WebhookFault: "webhook_fault"}


def configure(world: World, rule: FaultRule | WebhookFault) -> int:
    """Store a fault; returns its number."""
    statement = f"INSERT INTO {_TABLES[type(rule)]} (rule) VALUES (?)"
    return world.insert(statement, (rule.model_dump_json(),))


def configured(world: World, kind: type[Occurrences]) -> list[dict[str, Any]]:
    """Every fault of a kind, with the number of matches and of hits so far."""
    with world.transaction() as db:
        rows = db.execute(f"SELECT * FROM {_TABLES[kind]} ORDER BY number").fetchall()
    return [
        {
            "id": row["number"],
            "rule": from_json(row["rule"]),
            "seen": row["seen"],
            "fired": row["fired"],
        }
        for row in rows
    ]


def clear(world: World, kind: type[Occurrences], number: int | None = None) -> None:
    """Remove one fault of a kind, or all."""
    with world.transaction() as db:
        db.execute(f"DELETE FROM {_TABLES[kind]} WHERE ? IS NULL OR number = ?", (number, number))


def hitting(world: World, kind: type[Rule], matches: Callable[[Rule], bool]) -> list[Rule]:
    """The rules that hit one call or webhook; it is counted for every rule that it matches."""
    hit = []
    with world.transaction() as db:
        for row in db.execute(f"SELECT * FROM {_TABLES[kind]} ORDER BY number").fetchall():
            rule = kind.model_validate_json(row["rule"])
            if not matches(rule):
                continue
            fires = rule.hits(row["seen"] + 1, row["fired"])
            db.execute(
                f"UPDATE {_TABLES[kind]} SET seen = seen + 1, fired = fired + ? WHERE number = ?",
                (int(fires), row["number"]),
            )
            if fires:
                hit.append(rule)
    return hit
