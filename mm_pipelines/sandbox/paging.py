"""Fields and cursors, as every listing of the Graph API has them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from mm_pipelines.sandbox.calls import Call
from mm_pipelines.sandbox.encoding import from_cursor, to_cursor
from mm_pipelines.sandbox.errors import invalid_parameter

_FIELD = re.compile(r"[A-Za-z0-9_]+(?=(?:\.[a-z_]+\([^)]*\))?(?:\{|,|\Z))")


def requested_fields(call: Call, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """The names in `fields`, without nested fields; code 100 for an unknown one."""
    requested = call.params.get("fields")
    if requested is None or requested in ("", [], "[]"):
        return list(default)
    text = ",".join(call.items("fields")) if isinstance(requested, list) else str(requested)
    if text.startswith("["):
        text = ",".join(call.items("fields"))
    names = _FIELD.findall(re.sub(r"\{[^}]*\}", "", text.replace(" ", "")))
    for name in names:
        if name not in known:
            raise invalid_parameter(f"Tried accessing nonexisting field ({name})")
    return ["id", *(name for name in names if name != "id")] if "id" in known else names


def position_after(call: Call) -> int:
    """The position after which the page starts; code 100 for an unknown cursor."""
    cursor = call.text("after", "")
    if not cursor:
        return 0
    try:
        return from_cursor(cursor)
    except ValueError:
        raise invalid_parameter("Invalid cursors values for after cursor") from None


def paging(call: Call, first: int, last: int, more: bool) -> dict[str, Any]:
    """The `paging` object; `next` contains the access token, as at Meta."""
    links: dict[str, Any] = {"cursors": {"before": to_cursor(first), "after": to_cursor(last)}}
    if more:
        query: Mapping[str, Any] = {
            **{name: value for name, value in call.params.items() if name != "after"},
            "access_token": call.token or "",
            "after": links["cursors"]["after"],
        }
        links["next"] = f"{call.base_url}/{call.version}/{call.path}?" + urlencode(
            query, doseq=True
        )
    return links
