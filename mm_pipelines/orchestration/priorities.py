"""The order in which Dagster starts queued runs: `dagster/priority`, the highest first.

Opt-outs come before everything else, with the files for senders that lack one. Then come the other
files. Runs without the tag (backfills, and runs that a person launches) have priority 0 and start
last.
"""

from typing import Final

PRIORITY_TAG: Final = "dagster/priority"

SHARED_SLOT: Final = {"mm/shared_slot": "true"}
"""The tag of runs that must leave a slot free for opt-outs and senders' files (dagster.yaml)."""

OPT_OUTS: Final = 60
SENDER_FILES: Final = 50
STATUS: Final = 40
PULLS: Final = 30
OPT_INS: Final = 20
UPLOADS: Final = 10

_BY_ASSET: Final = {
    "unsubscribes": OPT_OUTS,
    "erasures": OPT_OUTS,
    "audience_removals": OPT_OUTS,
    "messaging_optins": OPT_OUTS,  # STOP arrives by this webhook field
    "sendable_tokens": SENDER_FILES,
    "match_status": STATUS,
    "subscription_tokens": PULLS,
    "token_details": PULLS,
    "optin_requests": OPT_INS,
    "customer_list": UPLOADS,
    "hashed_payload": UPLOADS,
    "custom_audience": UPLOADS,
    "audience_upload": UPLOADS,
    "audiences_at_meta": UPLOADS,
}


def priority_of(asset: str) -> int:
    """The priority of a run that is requested for an asset."""
    return _BY_ASSET[asset]


def priority_tags(asset: str, priority: int | None = None) -> dict[str, str]:
    """The tags of a run that is requested for an asset, by default with the asset's priority."""
    priority = priority_of(asset) if priority is None else priority
    shared = SHARED_SLOT if priority < SENDER_FILES else {}
    return {PRIORITY_TAG: str(priority), **shared}
