"""The tokens that may be messaged now, read in one stream and a fixed order."""

from contextlib import closing
from typing import IO

from psycopg2 import sql

from mm_pipelines.warehouse.database import Database

COLUMNS = (
    "page_id",
    "token",
    "recipient_id",
    "topic_title",
    "timezone",
    "created_at",
    "expires_at",
    "custom_audience_ids",
    "source",
)
"""The columns of the stream, in their order."""

# Times are ISO 8601 in UTC; an array is its ids with spaces between.
_COPY = """
copy (
    select page_id, token, recipient_id, topic_title, timezone,
        to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as created_at,
        to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as expires_at,
        array_to_string(custom_audience_ids, ' ') as custom_audience_ids,
        source
    from mm.sendable_token
    where {page}
    order by page_id, token
) to stdout with (format csv, header true)
"""


def copy_sendable(database: Database, page_id: str | None, file: IO[str]) -> int:
    """Write `mm.sendable_token` as CSV with a header, as of one moment, in constant memory.

    Args:
        database: with the schema `mm`.
        page_id: one Page's tokens; None for every Page's.
        file: where the text goes.

    Returns:
        The number of tokens.
    """
    # COPY takes no parameters, so the id is quoted into it by the driver.
    page = sql.SQL("page_id = {}").format(sql.Literal(page_id)) if page_id else sql.SQL("true")
    statement = sql.SQL(_COPY).format(page=page)
    with database.transaction() as connection, closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(statement, file)
        return int(cursor.rowcount)
