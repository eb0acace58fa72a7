"""The hashed payload: one row per person, normalized, hashed, deduplicated, published once."""

from mm_pipelines.payload.build import build_hashed_payload
from mm_pipelines.payload.report import REJECTED_ROW_SCHEMA, HashedPayload, Reason, RejectedRows

__all__ = [
    "REJECTED_ROW_SCHEMA",
    "HashedPayload",
    "Reason",
    "RejectedRows",
    "build_hashed_payload",
]
