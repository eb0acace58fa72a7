"""Webhooks as Meta sends them: escaped JSON, signed over its bytes."""

import json
from typing import Any

from mm_pipelines.webhooks.signature import HEADER, sign

SECRET = "test_app_secret"
PREVIOUS_SECRET = "previous_app_secret"
VERIFY_TOKEN = "test-verify-token"
PAGE_ID = 134141414124123
CUSTOM_AUDIENCE_ID = 140984918491243
AD_ACCOUNT_ID = 12348141984909088
UPLOAD_STATUS = "marketing_messages_subscriber_upload_status"


def upload_status(rows: int = 1000, **changed: Any) -> dict[str, Any]:
    """The value of an upload status, as Meta's page prints it."""
    return {
        "app_id": 12313123123123,
        "page_id": PAGE_ID,
        "custom_audience_id": CUSTOM_AUDIENCE_ID,
        "ad_account_id": AD_ACCOUNT_ID,
        "timestamp": 41412414141,
        "num_rows": rows,
        "business_id": 12313123123123,
        "approximate_count_lower_bound": 105,
        "approximate_count_upper_bound": 120,
        "batch_uploading_status": "SUCCESS",
        **changed,
    }


def changes(
    *values: Any, field: str = UPLOAD_STATUS, time: int = 1763000000, object_: str = "page"
) -> dict[str, Any]:
    """The changes form, all values in one entry."""
    entry_id = str(PAGE_ID if object_ == "page" else AD_ACCOUNT_ID)
    listed = [{"field": field, "value": value} for value in values]
    return {"object": object_, "entry": [{"id": entry_id, "time": time, "changes": listed}]}


def messaging(*items: dict[str, Any], time: int = 1763000000000) -> dict[str, Any]:
    """The messaging form, all items in one entry."""
    entry = {"id": str(PAGE_ID), "time": time, "messaging": list(items)}
    return {"object": "page", "entry": [entry]}


def item(psid: str = "4815162342", **what: Any) -> dict[str, Any]:
    """A messaging item."""
    return {
        "sender": {"id": psid},
        "recipient": {"id": str(PAGE_ID)},
        "timestamp": 1763000000123,
        **what,
    }


def body(document: Any) -> bytes:
    """The bytes on the wire."""
    return json.dumps(document).encode()


def signed(content: bytes, secret: str = SECRET) -> dict[str, str]:
    """The headers of a POST."""
    return {HEADER: sign(content, secret), "Content-Type": "application/json"}
