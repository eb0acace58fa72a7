"""From a frame of cells to the rows that every list gives."""

import polars as pl

from mm_pipelines.identity import is_blank
from mm_pipelines.lists.consent import ConsentColumns
from mm_pipelines.lists.headers import Columns

ROW_NUMBER = "row_number"
AGREED = "agreed"


def places_read(columns: Columns, consent: ConsentColumns) -> list[int]:
    """The positions of the columns that are read, in order."""
    places = {place for column in columns.places.values() for place in column}
    return sorted(places | consent.places)


def to_rows(
    cells: pl.DataFrame, columns: Columns, consent: ConsentColumns, rows_before: int
) -> pl.DataFrame:
    """A frame of ``row_number``, ``agreed`` and one text column per key (blank is ``""``).

    Args:
        cells: Text columns without nulls, named by their place.
        columns: Which columns are which schema keys.
        consent: Which columns record consent.
        rows_before: The rows before the frame.
    """
    return cells.select(
        (pl.int_range(pl.len(), dtype=pl.Int64) + rows_before + 1).alias(ROW_NUMBER),
        consent.agreed.alias(AGREED),
        *(_first_value(key, column) for key, column in columns.places.items()),
    )


def _first_value(key: str, places: tuple[int, ...]) -> pl.Expr:
    *others, last = (pl.col(str(place)) for place in places)
    value = last
    for other in reversed(others):
        value = pl.when(~is_blank(other)).then(other).otherwise(value)
    return value.alias(key)
