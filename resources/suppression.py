"""The key of the suppression list as a Dagster resource."""

import os

import dagster as dg
from pydantic import Field

from mm_pipelines.suppression.keys import SuppressionKeys


class SuppressionResource(dg.ConfigurableResource):
    """The keys of the digests in the suppression list.

    While the key is being changed, MM_SUPPRESSION_KEY_PREVIOUS contains the former one.
    """

    key: str = Field(repr=False, description="The secret text, from MM_SUPPRESSION_KEY")

    def get(self) -> SuppressionKeys:
        """Return the keys for HMAC."""
        previous = os.environ.get("MM_SUPPRESSION_KEY_PREVIOUS")
        return SuppressionKeys(self.key.encode(), previous.encode() if previous else None)
