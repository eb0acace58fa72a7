"""The key of those who left, as a Dagster resource."""

import dagster as dg
from pydantic import Field


class SuppressionResource(dg.ConfigurableResource):
    """The key that the record of those who left is hashed under; it must never change."""

    key: str = Field(repr=False, description="The secret text, as MM_SUPPRESSION_KEY has it")

    def get(self) -> bytes:
        """The key as HMAC takes it."""
        return self.key.encode()
