"""Parquet: columns of any plain type, read as text."""

import io
from collections.abc import Iterator, Sequence

import polars as pl

from mm_pipelines.lists.errors import ListMissingError, ListUnreadableError
from mm_pipelines.lists.file_bytes import fingerprint, open_binary
from mm_pipelines.lists.location import stat_list

_ROWS_A_CHUNK = 100_000
_NATIVE = ("s3://", "gs://", "gcs://", "az://", "abfs://", "abfss://", "http://", "https://")


class ParquetList:
    """The rows of one Parquet list.

    A Parquet file is not read from its beginning to its end, so its fingerprint is taken
    separately. ``stat`` is taken first: a file replaced between the two is noticed at the end.

    Attributes:
        stat: The file's size, time and identity before the first read.
        fingerprint: SHA-256 of the file's bytes.
        header: The column names.

    Raises:
        ListMissingError: The file does not exist.
        ListUnreadableError: The file is not Parquet.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.stat = stat_list(url)
        if self.stat is None:
            raise ListMissingError(url, "", "there is no such file")
        self.fingerprint = fingerprint(url)
        try:
            self._scan = pl.scan_parquet(self._source())
            self._schema = self._scan.collect_schema()
        except (pl.exceptions.PolarsError, OSError):
            raise ListUnreadableError(url, "", "this is no Parquet file, or it is cut") from None
        self.header = self._schema.names()

    def chunks(self, places: Sequence[int]) -> Iterator[pl.DataFrame]:
        """The columns at ``places``, in frames of text without nulls.

        Raises:
            ListUnreadableError: A column's type is not text, a number or a date, a binary column
                is not UTF-8, or the file is damaged.
        """
        names = {str(place): self.header[place] for place in places}
        for name in names.values():
            self._check_type(name)
        wanted = self._scan.select(
            _text(pl.col(name), self._schema[name]).alias(place) for place, name in names.items()
        )
        try:
            for frame in wanted.collect_batches(chunk_size=_ROWS_A_CHUNK, maintain_order=True):
                yield frame.select(
                    self._decoded(frame[place], name).fill_null("") for place, name in names.items()
                )
        except pl.exceptions.PolarsError:
            fault = "the Parquet data are damaged; write the list again"
            raise ListUnreadableError(self._url, "", fault) from None

    def _check_type(self, name: str) -> None:
        dtype = self._schema[name]
        if dtype.is_nested() or dtype in (pl.Object, pl.Duration):
            fault = f"the column {name!r} has the type {dtype.base_type()}; write it as text"
            raise ListUnreadableError(self._url, "header", fault)

    def _decoded(self, column: pl.Series, name: str) -> pl.Series:
        # Spark and Impala write text as binary.
        if column.dtype != pl.Binary:
            return column
        try:
            return column.cast(pl.String)
        except pl.exceptions.PolarsError:
            fault = f"the binary column {name!r} is not UTF-8 text; write it as UTF-8"
            raise ListUnreadableError(self._url, "", fault) from None

    def _source(self) -> str | io.BytesIO:
        if "://" not in self._url or self._url.startswith(_NATIVE):
            return self._url
        # Polars does not know other file systems (memory://, sftp://): these are read whole.
        with open_binary(self._url) as file:
            return io.BytesIO(file.read())


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
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
