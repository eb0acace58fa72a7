"""The hashed payload: one row per person, normalised, hashed, deduplicated, published once."""

from mm_pipelines.payload.build import build_hashed_payload
from mm_pipelines.payload.report import (
    REJECTED_ROW_SCHEMA,
    HashedPayload,
    Reason,
    RejectedRows,
)
from mm_pipelines.payload.suppression import Suppression, suppression_digest, suppression_digests

__all__ = [
    "REJECTED_ROW_SCHEMA",
    "HashedPayload",
    "Reason",
    "RejectedRows",
    "Suppression",
    "build_hashed_payload",
    "suppression_digest",
    "suppression_digests",
]
