"""The storage of Parquet files as a Dagster resource."""

import dagster as dg
from pydantic import Field

from mm_pipelines.storage import Storage


class StorageResource(dg.ConfigurableResource):
    """Where hashed payloads and frozen deltas are published."""

    base_url: str = Field(description="A local folder or any fsspec URL, as MM_STORAGE_URL has it")

    def get(self) -> Storage:
        """The storage under ``base_url``."""
        return Storage(self.base_url)
