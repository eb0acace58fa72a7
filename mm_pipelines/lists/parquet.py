"""Parquet: columns of any plain type, read as text."""

import io
from collections.abc import Iterator, Sequence

import polars as pl

from mm_pipelines.lists.errors import ListUnreadableError
from mm_pipelines.lists.location import stat_list
from mm_pipelines.lists.source import open_binary

_ROWS_A_CHUNK = 100_000
_NATIVE = ("s3://", "gs://", "gcs://", "az://", "abfs://", "abfss://", "http://", "https://")


class ParquetList:
    """The rows of one Parquet list.

    A Parquet file is read by parts, not from its beginning to its end, so that its fingerprint is
    taken by itself.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.stat = stat_list(url)
        try:
            self._scan = pl.scan_parquet(self._source())
            self._schema = self._scan.collect_schema()
        except (pl.exceptions.PolarsError, OSError):
            raise ListUnreadableError(url, "", "this is no Parquet file, or it is cut") from None
        self.header = self._schema.names()

    def chunks(self, places: Sequence[int]) -> Iterator[pl.DataFrame]:
        """The columns at ``places``, in frames of text without nulls."""
        names = [self.header[place] for place in places]
        wanted = self._scan.select(
            _text(pl.col(name), self._schema[name]).alias(str(place))
            for place, name in zip(places, names, strict=True)
        )
        try:
            yield from wanted.collect_batches(chunk_size=_ROWS_A_CHUNK, maintain_order=True)
        except pl.exceptions.PolarsError:
            fault = "the Parquet data are damaged; write the list again"
            raise ListUnreadableError(self._url, "", fault) from None

    def _source(self) -> str | io.BytesIO:
        if "://" not in self._url or self._url.startswith(_NATIVE):
            return self._url
        # Other file systems (memory://, sftp://…) are read whole: Polars does not know them.
        with open_binary(self._url) as file:
            return io.BytesIO(file.read())


def _text(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_float():
        # A phone number that passed through pandas: 4915112345678.0
        whole = column.cast(pl.Int64, strict=False)
        text = (
            pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
        )
    elif dtype.is_nested() or dtype == pl.Binary:
        text = pl.lit("")
    else:
        text = column.cast(pl.String)
    return text.fill_null("")
