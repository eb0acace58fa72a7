"""Throttling: a quota of calls per ad account or Page, its headers and its blocks (facts 4)."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mm_pipelines.sandbox.encoding import from_json, to_json
from mm_pipelines.sandbox.errors import GraphError
from mm_pipelines.sandbox.world import World


class Quota(BaseModel):
    """So many calls in so long; beyond them every call is refused, and prolongs the block."""

    model_config = ConfigDict(extra="forbid")

    subject: str = Field(description="act_<ID> or a Page id.")
    calls: int = Field(ge=1)
    window_seconds: float = Field(default=3600, gt=0)
    block_seconds: float = Field(default=60, gt=0)
    code: int | None = Field(
        default=None, description="Default: 80003 for ad accounts, 2300080 for Pages."
    )


def enforce(world: World, quota: Quota) -> None:
    """Set a subject's quota, replacing the one it had."""
    with world.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO quota VALUES (?, ?, 0)",
            (quota.subject, quota.model_dump_json()),
        )


def lift(world: World) -> None:
    """Remove every quota."""
    with world.transaction() as db:
        db.execute("DELETE FROM quota")


def enforced(world: World) -> list[dict[str, Any]]:
    """Every quota with the share used, in percent."""
    with world.transaction() as db:
        rows = db.execute("SELECT * FROM quota ORDER BY subject").fetchall()
        return [
            {
                **from_json(row["rule"]),
                "used_percent": _used(world, Quota.model_validate_json(row["rule"])),
                "blocked_seconds": max(0.0, row["blocked_until"] - world.now()),
            }
            for row in rows
        ]


def charge(world: World, subject: str | None) -> tuple[dict[str, str], GraphError | None]:
    """Count a call (already logged) against its subject.

    Returns the usage headers of the answer, and the throttle's error when the subject is over its
    quota or still blocked.
    """
    with world.transaction() as db:
        row = db.execute("SELECT * FROM quota WHERE subject = ?", (subject,)).fetchone()
        if row is None or subject is None:
            return usage_headers(subject, 0.0, 0.0), None
        quota = Quota.model_validate_json(row["rule"])
        used, now = _used(world, quota), world.now()
        if now >= row["blocked_until"] and used <= 100:
            return usage_headers(subject, used, 0.0), None
        db.execute(
            "UPDATE quota SET blocked_until = ? WHERE subject = ?",
            (now + quota.block_seconds, subject),
        )
    of_account = subject.startswith("act_")
    code = quota.code or (80003 if of_account else 2300080)
    error = GraphError(
        f"(#{code}) There have been too many calls to this "
        f"{'ad-account' if of_account else 'Page'}. Wait a bit and try again.",
        code=code,
        subcode=2446079 if code in {80003, 80004, 17} else None,
    )
    return usage_headers(subject, max(used, 100.0), quota.block_seconds), error


def usage_headers(subject: str | None, used: float, wait_seconds: float) -> dict[str, str]:
    """The three usage headers, JSON in strings; the time to wait is in whole minutes."""
    percent = min(100, int(used))
    load = {"call_count": percent, "total_cputime": percent // 2, "total_time": percent // 2}
    headers = {"x-app-usage": _text({"call_count": 0, "total_cputime": 0, "total_time": 0})}
    if subject is None:
        return headers
    of_account = subject.startswith("act_")
    business_use = {
        "type": "custom_audience" if of_account else "messenger",
        **load,
        "estimated_time_to_regain_access": math.ceil(wait_seconds / 60),
        "ads_api_access_tier": "standard_access",
    }
    headers["x-business-use-case-usage"] = _text({subject.removeprefix("act_"): [business_use]})
    if of_account:
        headers["x-ad-account-usage"] = _text(
            {
                "acc_id_util_pct": round(min(used, 100.0), 2),
                "reset_time_duration": math.ceil(wait_seconds),
                "ads_api_access_tier": "standard_access",
            }
        )
    return headers


def _used(world: World, quota: Quota) -> float:
    (count,) = world.db.execute(
        "SELECT count(*) FROM call WHERE subject = ? AND at > ?",
        (quota.subject, world.now() - quota.window_seconds),
    ).fetchone()
    return 100.0 * float(count) / quota.calls


def _text(value: object) -> str:
    return to_json(value).decode()
