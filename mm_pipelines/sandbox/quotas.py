"""Throttling: quotas of calls, their usage headers, their refusals and blocks.

Each kind of quota has its own error code and its own usage header, as Meta documents them.
"""

import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import to_json
from mm_pipelines.sandbox.errors import GraphError
from mm_pipelines.sandbox.world import World

Kind = Literal["application", "ad_account", "custom_audience", "page", "token_listing"]

APPLICATION = "app"
LISTING_EDGE = "notification_message_tokens"
FULL_PERCENT = 100.0

_DEFAULT_CODES: dict[Kind, int] = {
    "application": 4,
    "ad_account": 17,
    "custom_audience": 80003,
    "page": 32,
    "token_listing": 2300080,
}
_KINDS: dict[int, Kind] = {
    **{code: kind for kind, code in _DEFAULT_CODES.items()},
    80004: "ad_account",
    80001: "page",
    80006: "page",
}
# The `type` in X-Business-Use-Case-Usage. Codes 4 and 17 have headers of their own.
_USE_CASES = {
    80003: "custom_audience",
    80004: "ads_management",
    32: "pages",
    80001: "pages",
    80006: "messenger",
    2300080: "messenger",
}
_SUBCODES = {17: 2446079, 80003: 2446079, 80004: 2446079}


class Quota(BaseModel):
    """A number of calls per window; further calls are refused, and prolong the block."""

    model_config = ConfigDict(extra="forbid")

    subject: str = Field(description="act_<ID>, a Page id, or app for all calls of the app.")
    kind: Kind | None = Field(
        default=None,
        description="Default: that of the code; without a code application for app, "
        "custom_audience for an ad account, token_listing for a Page.",
    )
    code: int | None = Field(
        default=None,
        description="Default: 4, 17 (or 80004), 80003, 32 (or 80001, 80006), 2300080 by kind.",
    )
    calls: int | None = Field(
        default=None, ge=1, description="Calls per window; null: only the block refuses calls."
    )
    window_seconds: float = Field(default=3600, gt=0)
    block_seconds: float = Field(
        default=60, ge=0, description="Each refused call blocks at least so long from then on."
    )
    blocked_for_seconds: float = Field(
        default=0, ge=0, description="Refuse every call from now on for so long."
    )
    tell_wait: bool = Field(
        default=True, description="Whether the headers of a refusal tell how long the block lasts."
    )

    @property
    def resolved_kind(self) -> Kind:
        """The kind, with its default."""
        if self.kind is not None:
            return self.kind
        if self.code in _KINDS:
            return _KINDS[self.code]
        if self.subject == APPLICATION:
            return "application"
        return "custom_audience" if self.subject.startswith("act_") else "token_listing"

    @property
    def resolved_code(self) -> int:
        """The error code of a refusal."""
        return self.code or _DEFAULT_CODES[self.resolved_kind]

    def covers(self, call: Call, subject: str | None) -> bool:
        """Whether a call uses this quota."""
        if self.subject == APPLICATION:
            return True
        if self.resolved_kind == "token_listing" and not call.path.endswith(LISTING_EDGE):
            return False
        return subject == self.subject


@dataclass(frozen=True)
class _Use:
    """The use of one quota at one call."""

    quota: Quota
    percent: float
    refused: bool = False
    blocked_seconds: float = 0.0


def enforce(world: World, quota: Quota) -> None:
    """Store a quota; it replaces one of the same subject and kind."""
    with world.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO rate_limit VALUES (?, ?, ?, ?)",
            (
                quota.subject,
                quota.resolved_kind,
                quota.model_dump_json(),
                world.now() + quota.blocked_for_seconds,
            ),
        )


def clear(world: World) -> None:
    """Remove every quota."""
    with world.transaction() as db:
        db.execute("DELETE FROM rate_limit")


def enforced(world: World) -> list[dict[str, Any]]:
    """Every quota with the share used in percent and the rest of its block in seconds."""
    with world.transaction() as db:
        return [
            {
                **quota.model_dump(),
                "kind": quota.resolved_kind,
                "code": quota.resolved_code,
                "used_percent": _used(world, quota),
                "blocked_seconds": max(0.0, blocked_until - world.now()),
            }
            for quota, blocked_until in _stored(db)
        ]


def refused(world: World) -> list[dict[str, Any]]:
    """The throttling refusals of each subject and code, with the times at which they came."""
    marks = ", ".join("?" * len(_KINDS))
    with world.transaction() as db:
        rows = db.execute(
            f"SELECT subject, code, at FROM call WHERE code IN ({marks}) ORDER BY number",
            tuple(_KINDS),
        ).fetchall()
    times: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        times.setdefault((row["subject"], row["code"]), []).append(row["at"])
    return [
        {"subject": subject, "kind": _KINDS[code], "code": code, "refusals": len(at), "at": at}
        for (subject, code), at in times.items()
    ]


def charge(
    world: World, call: Call, subject: str | None
) -> tuple[dict[str, str], GraphError | None]:
    """Count a call, which is already logged, against all quotas that cover it.

    Returns:
        The usage headers of the answer, and the error of a quota that is used up or blocked.
    """
    uses: list[_Use] = []
    with world.transaction() as db:
        for quota, blocked_until in _stored(db):
            if not quota.covers(call, subject):
                continue
            used, now = _used(world, quota), world.now()
            if now >= blocked_until and used <= FULL_PERCENT:
                uses.append(_Use(quota, used))
                continue
            block_end = max(blocked_until, now + quota.block_seconds)
            db.execute(
                "UPDATE rate_limit SET blocked_until = ? WHERE subject = ? AND kind = ?",
                (block_end, quota.subject, quota.resolved_kind),
            )
            uses.append(_Use(quota, FULL_PERCENT, refused=True, blocked_seconds=block_end - now))
    refusing = next((use.quota for use in uses if use.refused), None)
    return usage_headers(subject, uses), None if refusing is None else _refusal(refusing)


def usage_headers(subject: str | None, uses: Iterable[_Use]) -> dict[str, str]:
    """The usage headers as JSON texts.

    Times to wait are whole minutes in X-Business-Use-Case-Usage, seconds in X-Ad-Account-Usage;
    X-App-Usage contains none.
    """
    by_code = {use.quota.resolved_code: use for use in uses}
    headers = {"x-app-usage": _text(_load(by_code.get(_DEFAULT_CODES["application"])))}
    if subject is None:
        return headers
    of_account = subject.startswith("act_")
    codes = [code for code in by_code if code in _USE_CASES] or [80003 if of_account else 2300080]
    headers["x-business-use-case-usage"] = _text(
        {subject.removeprefix("act_"): [_use_case(code, by_code.get(code)) for code in codes]}
    )
    if of_account:
        use = by_code.get(_DEFAULT_CODES["ad_account"])
        headers["x-ad-account-usage"] = _text(
            {
                "acc_id_util_pct": round(_percent(use), 2),
                "reset_time_duration": math.ceil(_wait(use)),
                "ads_api_access_tier": "standard_access",
            }
        )
    return headers


def _refusal(quota: Quota) -> GraphError:
    code = quota.resolved_code
    origin = {
        "application": "application",
        "page": "Page",
        "token_listing": "Page",
    }.get(quota.resolved_kind, "ad-account")
    return GraphError(
        f"(#{code}) There have been too many calls to this {origin}. Wait a bit and try again.",
        code=code,
        subcode=_SUBCODES.get(code),
    )


def _use_case(code: int, use: _Use | None) -> dict[str, Any]:
    return {
        "type": _USE_CASES[code],
        **_load(use),
        "estimated_time_to_regain_access": math.ceil(_wait(use) / 60),
        "ads_api_access_tier": "standard_access",
    }


def _load(use: _Use | None) -> dict[str, int]:
    percent = int(_percent(use))
    return {"call_count": percent, "total_cputime": percent // 2, "total_time": percent // 2}


def _percent(use: _Use | None) -> float:
    return 0.0 if use is None else use.percent


def _wait(use: _Use | None) -> float:
    return use.blocked_seconds if use is not None and use.quota.tell_wait else 0.0


def _stored(db: sqlite3.Connection) -> list[tuple[Quota, float]]:
    rows = db.execute("SELECT * FROM rate_limit ORDER BY subject, kind").fetchall()
    return [(Quota.model_validate_json(row["rule"]), row["blocked_until"]) for row in rows]


def _used(world: World, quota: Quota) -> float:
    if quota.calls is None:
        return 0.0
    conditions: list[str] = ["at > ?"]
    values: list[Any] = [world.now() - quota.window_seconds]
    if quota.subject != APPLICATION:
        conditions.append("subject = ?")
        values.append(quota.subject)
    if quota.resolved_kind == "token_listing":
        conditions.append(f"path LIKE '%/{LISTING_EDGE}'")
    (count,) = world.db.execute(
        f"SELECT count(*) FROM call WHERE {' AND '.join(conditions)}", values
    ).fetchone()
    return 100.0 * float(count) / quota.calls


def _text(value: object) -> str:
    return to_json(value).decode()
