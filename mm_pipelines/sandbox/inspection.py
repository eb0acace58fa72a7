"""Read-only views of the sandbox's state, for tests and people."""

import hashlib
from typing import Any

from mm_pipelines.sandbox import members, webhooks
from mm_pipelines.sandbox.world import World


def audiences(world: World) -> list[dict[str, Any]]:
    """Every audience, deleted ones included, with its counts."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT *, (SELECT count(*) FROM member m WHERE m.audience = a.number)"
            " AS members FROM audience a ORDER BY number"
        ).fetchall()
        return [
            {
                "audience_id": row["audience_id"],
                "ad_account_id": row["account_id"],
                "page_id": row["page_id"],
                "name": row["name"],
                "deleted": row["deleted_at"] is not None,
                "operation_status": row["operation_status"],
                "members": row["members"],
                "matched": row["matched"],
            }
            for row in rows
        ]


def membership(world: World, audience_id: str) -> dict[str, Any]:
    """The members as sorted "<e-mail hash>|<phone hash>", and the SHA-256 of those lines."""
    with world.transaction() as db:
        row = db.execute(
            "SELECT number FROM audience WHERE audience_id = ?", (audience_id,)
        ).fetchone()
        keys = [] if row is None else members.keys(db, row["number"])
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    return {"count": len(keys), "digest": digest, "keys": keys}


def calls(world: World) -> dict[str, Any]:
    """The number of calls by kind and outcome, and every batch with its times received."""
    with world.transaction() as db:
        counts = db.execute(
            "SELECT method, path, principal, status, code, count(*) AS calls FROM call"
            " GROUP BY method, path, principal, status, code ORDER BY min(number)"
        ).fetchall()
        batches = db.execute(
            "SELECT account_id, session_id, batch_seq, audience_id, kind, num_rows, num_invalid,"
            " times_received, processed_at IS NOT NULL AS processed FROM batch ORDER BY number"
        ).fetchall()
    return {
        "calls": [dict(row) for row in counts],
        "batches": [{**row, "processed": bool(row["processed"])} for row in map(dict, batches)],
    }


def token_counts(world: World) -> list[dict[str, Any]]:
    """Tokens by Page: alive by origin, unsubscribed, and the known recipients."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT page_id, sum(gone_at IS NULL) AS alive,"
            " sum(gone_at IS NULL AND person IS NOT NULL) AS made_by_audiences,"
            " sum(gone_at IS NULL AND person IS NULL) AS opted_in,"
            " count(DISTINCT CASE WHEN gone_at IS NULL THEN psid END) AS recipients,"
            " sum(gone_at IS NOT NULL) AS unsubscribed FROM token GROUP BY page_id"
        ).fetchall()
    return [dict(row) for row in rows]


def webhook_counts(world: World) -> dict[str, Any]:
    """Webhooks pending and delivered, by field, and their attempts."""
    with world.transaction() as db:
        rows = db.execute(
            "SELECT field, object, count(*) AS made, sum(delivered_at IS NULL) AS pending,"
            " sum(delivered_at IS NOT NULL) AS delivered, sum(attempts) AS attempts"
            " FROM webhook GROUP BY field, object ORDER BY field, object"
        ).fetchall()
        paused = bool(world.recall("webhooks_paused", False))
    return {
        "paused": paused,
        "pending": sum(row["pending"] for row in rows),
        "delivered": sum(row["delivered"] for row in rows),
        "by_field": [dict(row) for row in rows],
    }


def idle(world: World) -> dict[str, Any]:
    """Whether no matching and no webhook is pending."""
    with world.transaction() as db:
        (jobs,) = db.execute(
            "SELECT count(*) FROM batch WHERE due_at IS NOT NULL AND processed_at IS NULL"
        ).fetchone()
    waiting = webhooks.pending(world)
    return {
        "idle": jobs == 0 and waiting == 0,
        "pending_matching": jobs,
        "pending_webhooks": waiting,
    }
