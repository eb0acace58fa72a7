"""Custom Audiences: create, list, read, change and delete them."""

import sqlite3
from collections.abc import Callable
from typing import Any

from mm_pipelines.sandbox import errors
from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import keyed_number
from mm_pipelines.sandbox.paging import paging, position_after, requested_fields
from mm_pipelines.sandbox.world import World

AUDIENCES_PER_ACCOUNT = 500

FIELDS = (
    "id", "account_id", "name", "description", "subtype", "customer_file_source",
    "approximate_count_lower_bound", "approximate_count_upper_bound", "data_source",
    "delivery_status", "operation_status", "time_created", "time_updated",
    "time_content_updated", "retention_days", "permission_for_actions", "sharing_status",
    "is_value_based", "messenger_marketing_messages_page", "fields_violating_integrity_policy",
    "datafile_custom_audience_uploading_status",
)  # fmt: skip

# The number by which Meta's page filters Messenger audiences; its name is not published
# (docs/graph-api.md#listing-custom-audiences).
MESSENGER_SUBTYPE = 1010
CUSTOMER_FILE_SUBTYPE = 1001

_OPERATION_STATUS = {
    200: "Normal: there is no ongoing operation on this audience.",
    410: "No upload: no people have been uploaded to this audience yet.",
    414: "Replace in progress.",
    415: "Replace failed.",
    441: "Populating: the audience can be used, its size is still growing.",
    471: "Flagged: the audience does not meet the integrity rules.",
}

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "EQUAL": lambda mine, theirs: str(mine) == str(theirs),
    "NOT_EQUAL": lambda mine, theirs: str(mine) != str(theirs),
    "IN": lambda mine, theirs: str(mine) in map(str, theirs),
    "NOT_IN": lambda mine, theirs: str(mine) not in map(str, theirs),
    "CONTAIN": lambda mine, theirs: str(theirs).lower() in str(mine).lower(),
    "NOT_CONTAIN": lambda mine, theirs: str(theirs).lower() not in str(mine).lower(),
    "STARTS_WITH": lambda mine, theirs: str(mine).startswith(str(theirs)),
    "ENDS_WITH": lambda mine, theirs: str(mine).endswith(str(theirs)),
    "GREATER_THAN": lambda mine, theirs: float(mine) > float(theirs),
    "GREATER_THAN_OR_EQUAL": lambda mine, theirs: float(mine) >= float(theirs),
    "LESS_THAN": lambda mine, theirs: float(mine) < float(theirs),
    "LESS_THAN_OR_EQUAL": lambda mine, theirs: float(mine) <= float(theirs),
}


def create(world: World, call: Call, account_id: str) -> dict[str, Any]:
    """POST /act_<ID>/customaudiences."""
    page_id = _check_creation(world, call, account_id)
    name = call.text("name")
    now = int(world.now())
    with world.transaction() as db:
        if call.flag("enable_fetch_or_create"):
            known = db.execute(
                "SELECT audience_id FROM audience"
                " WHERE account_id = ? AND name = ? AND deleted_at IS NULL ORDER BY number",
                (account_id, name),
            ).fetchone()
            if known is not None:
                return _created(call, known["audience_id"])
        (count,) = db.execute(
            "SELECT count(*) FROM audience WHERE account_id = ? AND deleted_at IS NULL",
            (account_id,),
        ).fetchone()
        if count >= AUDIENCES_PER_ACCOUNT:
            raise errors.GraphError(
                "(#2654) Failed to create custom audience: the ad account has reached its limit",
                code=2654,
            )
        number = db.execute(
            "INSERT INTO audience (account_id, page_id, name, description, subtype,"
            " customer_file_source, marketing_messages, retention_days, time_created,"
            " time_updated, time_content_updated, operation_status)"
            " VALUES (?, ?, ?, ?, 'CUSTOM', ?, ?, ?, ?, ?, ?, 410)",
            (
                account_id,
                page_id,
                name,
                call.text("description", ""),
                call.text("customer_file_source"),
                page_id is not None,
                call.whole_number("retention_days", 0),
                now,
                now,
                now,
            ),
        ).lastrowid
        # More than 2^53, as Meta's are: read as a float, it is the id of another audience.
        audience_id = str(keyed_number(world.settings.seed, "audience", number, digits=18))
        db.execute("UPDATE audience SET audience_id = ? WHERE number = ?", (audience_id, number))
    return _created(call, audience_id)


def listing(world: World, call: Call, account_id: str) -> dict[str, Any]:
    """GET /act_<ID>/customaudiences, oldest first."""
    check_account(world, account_id)
    fields = requested_fields(call, FIELDS, default=("id",))
    filters = _filters(call)
    limit = min(call.whole_number("limit", 25, lowest=1), 500)
    with world.transaction() as db:
        rows = db.execute(
            "SELECT * FROM audience WHERE account_id = ? AND number > ? AND deleted_at IS NULL"
            " ORDER BY number",
            (account_id, position_after(call)),
        ).fetchall()
        chosen = [row for row in rows if all(accepts(row) for accepts in filters)]
        page = chosen[:limit]
        answer: dict[str, Any] = {"data": [described(world, row, fields) for row in page]}
    if page:
        more = len(chosen) > limit
        answer["paging"] = paging(call, page[0]["number"], page[-1]["number"], more)
    return answer


def read(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """GET /<CUSTOM_AUDIENCE_ID>."""
    fields = requested_fields(call, FIELDS, default=("id",))
    return described(world, existing(world, audience_id), fields)


def update(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """POST /<CUSTOM_AUDIENCE_ID>: name, description, retention_days."""
    row = existing(world, audience_id, "post")
    with world.transaction() as db:
        db.execute(
            "UPDATE audience SET name = ?, description = ?, retention_days = ?, time_updated = ?"
            " WHERE audience_id = ?",
            (
                call.text("name", row["name"]),
                call.text("description", row["description"]),
                call.whole_number("retention_days", row["retention_days"]),
                int(world.now()),
                audience_id,
            ),
        )
    return {"success": True}


def delete(world: World, call: Call, audience_id: str) -> dict[str, Any]:  # noqa: ARG001 - a route
    """DELETE /<CUSTOM_AUDIENCE_ID>: the audience is deleted, its tokens stay."""
    mark_deleted(world, audience_id)
    return {"success": True}


def mark_deleted(world: World, audience_id: str) -> None:
    """Delete an audience: later calls answer 100/33."""
    number = existing(world, audience_id, "delete")["number"]
    with world.transaction() as db:
        db.execute(
            "UPDATE audience SET deleted_at = ? WHERE audience_id = ?", (world.now(), audience_id)
        )
        db.execute("DELETE FROM member WHERE audience = ?", (number,))
        db.execute("DELETE FROM token_audience WHERE audience = ?", (number,))


def sessions(world: World, call: Call, audience_id: str) -> dict[str, Any]:
    """GET /<CUSTOM_AUDIENCE_ID>/sessions: every value is a string."""
    existing(world, audience_id)
    wanted = call.text("session_id", "")
    with world.transaction() as db:
        rows = db.execute(
            "SELECT s.*,"
            " (SELECT count(*) FROM batch b WHERE b.account_id = s.account_id"
            "  AND b.session_id = s.session_id AND b.due_at IS NOT NULL"
            "  AND b.processed_at IS NULL) AS pending"
            " FROM session s WHERE audience_id = ? ORDER BY started_at",
            (audience_id,),
        ).fetchall()
    return {
        "data": [_described_session(row) for row in rows if wanted in {"", str(row["session_id"])}]
    }


def existing(world: World, audience_id: str, method: str = "get") -> sqlite3.Row:
    """The row of a live audience; code 100/33 otherwise."""
    row: sqlite3.Row | None = world.db.execute(
        "SELECT * FROM audience WHERE audience_id = ? AND deleted_at IS NULL", (audience_id,)
    ).fetchone()
    if row is None:
        raise errors.unknown_object(audience_id, method)
    return row


def check_account(world: World, account_id: str) -> None:
    """Refuse an ad account that was not configured (unless none was)."""
    known = world.settings.ad_accounts
    if known and account_id not in known:
        raise errors.unknown_object(f"act_{account_id}")


def size_bounds(matched: int) -> tuple[int, int]:
    """Meta's approximate bounds; the true number is between them."""
    return matched - matched // 20, matched + matched // 20


def described(world: World, row: sqlite3.Row, fields: list[str]) -> dict[str, Any]:
    """An audience node with the requested fields."""
    lower, upper = size_bounds(row["matched"])
    ready = row["matched"] >= world.settings.audience_floor
    subtype = "MESSENGER_ONSITE_SUBSCRIPTION" if row["marketing_messages"] else "ANYTHING"
    node: dict[str, Any] = {
        "id": row["audience_id"],
        "account_id": row["account_id"],
        "name": row["name"],
        "description": row["description"],
        "subtype": row["subtype"],
        "customer_file_source": row["customer_file_source"],
        "approximate_count_lower_bound": lower,
        "approximate_count_upper_bound": upper,
        "data_source": {"type": "FILE_IMPORTED", "sub_type": subtype},
        "delivery_status": {
            "code": 200 if ready else 300,
            "description": "This audience is ready for use."
            if ready
            else "Audience is too small to be used.",
        },
        "operation_status": {
            "code": row["operation_status"],
            "description": _OPERATION_STATUS.get(row["operation_status"], "Warning."),
        },
        "time_created": row["time_created"],
        "time_updated": row["time_updated"],
        "time_content_updated": row["time_content_updated"],
        "retention_days": row["retention_days"],
        "permission_for_actions": {"can_edit": True, "can_share": True, "can_see_insight": True},
        "sharing_status": {"sharing_relationship_id": "0", "status": "NOT_SHARED"},
        "is_value_based": False,
        "fields_violating_integrity_policy": ["name"] if row["operation_status"] == 471 else [],
        "datafile_custom_audience_uploading_status": "PROCESSING"
        if row["operation_status"] == 441
        else "SUCCESS",
    }
    if row["marketing_messages"]:
        node["messenger_marketing_messages_page"] = {
            "id": row["page_id"],
            "name": f"Page {row['page_id']}",
        }
    return {name: node[name] for name in fields if name in node}


def _check_creation(world: World, call: Call, account_id: str) -> str | None:
    """Check the documented parameters; returns the Page for a Messenger audience."""
    check_account(world, account_id)
    call.text("name")
    if call.text("subtype") != "CUSTOM":
        raise errors.invalid_parameter("Param subtype must be CUSTOM for a customer file")
    sources = {"USER_PROVIDED_ONLY", "PARTNER_PROVIDED_ONLY", "BOTH_USER_AND_PARTNER_PROVIDED"}
    if call.text("customer_file_source") not in sources:
        raise errors.invalid_parameter(f"Param customer_file_source must be one of {sources}")
    products = call.items("use_for_products")
    if "MARKETING_MESSAGES" not in products:
        return None
    call.text("description")
    if call.items("subscription_info") != ["MESSENGER"]:
        raise errors.invalid_parameter("Param subscription_info must be [MESSENGER]")
    channels = call.nested("marketing_message_channels")
    if not isinstance(channels, dict) or not channels.get("MESSENGER"):
        raise errors.missing_parameter("marketing_message_channels")
    page_id = str(channels["MESSENGER"])
    pages = world.settings.ad_accounts.get(account_id, ())
    if world.settings.ad_accounts and page_id not in pages:
        raise errors.GraphError(
            "(#200) The Page is not linked to the business of this ad account",
            code=200,
            subcode=1870050,
            status=403,
        )
    return page_id


def _created(call: Call, audience_id: str) -> dict[str, Any]:
    if call.variants.create_shape == "top_level":
        return {"id": audience_id, "message": ""}
    return {"data": [{"id": audience_id}]}


def _filters(call: Call) -> list[Callable[[sqlite3.Row], bool]]:
    conditions = call.nested("filtering") or []
    if not isinstance(conditions, list):
        raise errors.invalid_parameter("Param filtering must be an array")
    return [_filter(condition) for condition in conditions]


def _filter(condition: object) -> Callable[[sqlite3.Row], bool]:
    if not isinstance(condition, dict) or set(condition) != {"field", "operator", "value"}:
        raise errors.invalid_parameter("Param filtering needs field, operator and value")
    compare = _OPERATORS.get(str(condition["operator"]))
    if compare is None:
        raise errors.invalid_parameter(f"Unsupported operator {condition['operator']}")
    many = condition["operator"] in {"IN", "NOT_IN"}
    if many is not isinstance(condition["value"], list):
        raise errors.invalid_parameter(f"Wrong value for operator {condition['operator']}")
    column = {
        "id": "audience_id",
        "name": "name",
        "subtype": "subtype",
        "data_source.subtype": "marketing_messages",
        "operation_status.code": "operation_status",
        "time_created": "time_created",
        "time_updated": "time_updated",
    }.get(str(condition["field"]))
    if column is None:
        raise errors.invalid_parameter(f"Filtering field {condition['field']} is not supported")

    def accepts(row: sqlite3.Row) -> bool:
        mine = row[column]
        if column == "marketing_messages":
            mine = MESSENGER_SUBTYPE if mine else CUSTOMER_FILE_SUBTYPE
        try:
            return compare(mine, condition["value"])
        except (TypeError, ValueError):
            raise errors.invalid_parameter(
                f"Wrong value for filtering field {condition['field']}"
            ) from None

    return accepts


def _described_session(row: sqlite3.Row) -> dict[str, str]:
    done = row["pending"] == 0 and row["ended_at"] is not None
    return {
        "session_id": str(row["session_id"]),
        "stage": "finished" if done else "processing" if row["pending"] else "uploading",
        "progress": "100" if done else "50",
        "num_received": str(row["num_received"]),
        "num_invalid_entries": str(row["num_invalid"]),
        "num_matched": str(row["num_matched"]),
        "start_time": str(int(row["started_at"])),
        "end_time": str(int(row["ended_at"])) if done else "0",
    }
