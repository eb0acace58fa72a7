"""The key of the suppression list as a Dagster resource."""

import dagster as dg
from pydantic import Field


class SuppressionResource(dg.ConfigurableResource):
    """The key of the digests in the suppression list."""

    key: str = Field(repr=False, description="The secret text, from MM_SUPPRESSION_KEY")

    def get(self) -> bytes:
        """Return the key as bytes for HMAC."""
        return self.key.encode()
