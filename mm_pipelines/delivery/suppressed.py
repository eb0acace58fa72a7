"""How deliveries ask who opted out."""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from mm_pipelines.delivery.anti_join import IDENTITY

SuppressedAmong = Callable[[pl.LazyFrame, datetime | None], pl.DataFrame]
"""Returns, of EMAIL and PHONE hashes, those suppressed at a time or later."""


def none_suppressed(people: pl.LazyFrame, since: datetime | None) -> pl.DataFrame:  # noqa: ARG001
    """`SuppressedAmong` for an empty suppression list."""
    return pl.DataFrame(schema=dict.fromkeys(IDENTITY, pl.String))
