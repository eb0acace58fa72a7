"""Typed columns of Parquet files and databases as text."""

from collections.abc import Generator, Sequence
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import polars as pl

from mm_pipelines.lists.errors import ListUnreadableError

ROWS_A_CHUNK = 100_000


def text_chunks(name: str, scan: pl.LazyFrame, places: Sequence[int]) -> Generator[pl.DataFrame]:
    """The columns at ``places``, named by their place, in frames of text without nulls.

    Args:
        name: The list, for messages.
        scan: The typed columns.
        places: The positions of the columns to read.

    Raises:
        ListUnreadableError: A column's type is not text, a number or a date, or a binary column
            is not UTF-8.
        polars.exceptions.PolarsError: The data cannot be read.
    """
    schema = scan.collect_schema()
    names = {str(place): schema.names()[place] for place in places}
    for column in names.values():
        _check_type(name, column, schema[column])
    wanted = scan.select(
        _text(pl.col(column), schema[column]).alias(place) for place, column in names.items()
    )
    for frame in wanted.collect_batches(chunk_size=ROWS_A_CHUNK, maintain_order=True):
        yield frame.select(
            _decoded(name, frame[place], column).fill_null("") for place, column in names.items()
        )


def text_of(name: str, column: str, value: object) -> str:
    """One value of a Python database driver as text.

    Raises:
        ListUnreadableError: It is not text, a number or a date.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case Decimal() if value == value.to_integral_value():
            return str(int(value))
        case int() | float() | Decimal() | date() | UUID():
            return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
        case bytes() | memoryview():
            try:
                return bytes(value).decode()
            except UnicodeDecodeError:
                raise ListUnreadableError(name, "", _not_utf8(column)) from None
    raise ListUnreadableError(name, "header", _wrong_type(column, type(value).__name__))


def _check_type(name: str, column: str, dtype: pl.DataType) -> None:
    if dtype.is_nested() or dtype in (pl.Object, pl.Duration):
        fault = _wrong_type(column, str(dtype.base_type()))
        raise ListUnreadableError(name, "header", fault)


def _wrong_type(column: str, dtype: str) -> str:
    return f"the column {column!r} has the type {dtype}; write it as text"


def _not_utf8(column: str) -> str:
    return f"the binary column {column!r} is not UTF-8 text; write it as UTF-8"


def _decoded(name: str, values: pl.Series, column: str) -> pl.Series:
    # Spark and Impala write text as binary.
    if values.dtype != pl.Binary:
        return values
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise ListUnreadableError(name, "", _not_utf8(column)) from None


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.BaseExtension):
        # PostgreSQL's numeric arrives as text of an Arrow extension type.
        return column.ext.storage().cast(pl.String).str.replace(r"\.0+$", "")
    if dtype.is_float():
        # A phone number that passed through pandas: 4915112345678.0
        whole = column.cast(pl.Int64, strict=False)
        return (
            pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
        )
    if dtype.is_decimal():
        # A phone number in a column of money: Decimal(20, 2) writes 4915112345678.00
        return column.cast(pl.String).str.replace(r"\.0+$", "")
    return column if dtype == pl.Binary else column.cast(pl.String)
