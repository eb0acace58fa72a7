"""The storage of Parquet files as a Dagster resource."""

import dagster as dg
from pydantic import Field

from mm_pipelines.storage import Storage


class StorageResource(dg.ConfigurableResource):
    """The storage that receives hashed payloads, deltas and exports."""

    base_url: str = Field(description="A local folder or any fsspec URL, from MM_STORAGE_URL")

    def get(self) -> Storage:
        """Return the storage below ``base_url``."""
        return Storage(self.base_url)
