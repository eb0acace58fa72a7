"""Parquet: columns of any plain type, read as text."""

import io
from collections.abc import Iterator, Sequence

import polars as pl

from mm_pipelines.lists.errors import ListMissingError, ListUnreadableError
from mm_pipelines.lists.file_bytes import fingerprint, open_binary
from mm_pipelines.lists.location import stat_list
from mm_pipelines.lists.text_cells import text_chunks

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
        try:
            yield from text_chunks(self._url, self._scan, places)
        except pl.exceptions.PolarsError:
            fault = "the Parquet data are damaged; write the list again"
            raise ListUnreadableError(self._url, "", fault) from None

    def _source(self) -> str | io.BytesIO:
        if "://" not in self._url or self._url.startswith(_NATIVE):
            return self._url
        # Polars does not know other file systems (memory://, sftp://): these are read whole.
        with open_binary(self._url) as file:
            return io.BytesIO(file.read())
