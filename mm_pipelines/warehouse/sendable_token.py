"""The tokens that may be messaged now, as a frame for whoever sends."""

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection as BulkConnection

_SENDABLE = """
select
    page_id, token, recipient_id, topic_title, reoptin, user_token_status, timezone, created_at,
    expires_at, next_eligible_at, array_to_string(custom_audience_ids, ' ') as custom_audience_ids,
    source
from mm.sendable_token
"""

_OF_ALL = f"{_SENDABLE} order by page_id, token"
_OF_ONE = f"{_SENDABLE} where page_id = $1 order by token"


def sendable_tokens(bulk: "BulkConnection", page_id: str | None = None) -> pl.DataFrame:
    """One row for each token, of one Page or of all, in a stable order.

    `custom_audience_ids` is a text of ids with spaces between them, so that CSV can hold it.
    """
    with bulk.cursor() as cursor:
        if page_id is None:
            cursor.execute(_OF_ALL)
        else:
            cursor.execute(_OF_ONE, [page_id])
        frame: pl.DataFrame = cursor.fetch_polars()
    return frame
