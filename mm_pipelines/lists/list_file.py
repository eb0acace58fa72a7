"""One file of a customer list, in any supported format, as a stream of frames."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from mm_pipelines.lists.consent import ConsentColumns, ConsentSetting, match_consent
from mm_pipelines.lists.delimited import Delimited
from mm_pipelines.lists.encoding import Text
from mm_pipelines.lists.errors import ListChangedError, ListUnreadableError
from mm_pipelines.lists.file_bytes import Bytes
from mm_pipelines.lists.headers import Columns, match_columns
from mm_pipelines.lists.location import stat_list
from mm_pipelines.lists.ndjson import NdJson
from mm_pipelines.lists.parquet import ParquetList
from mm_pipelines.lists.rows import places_read, to_rows

NAMES = ("FN", "LN", "FI")
"""The keys whose hash depends on every letter, and so on the encoding."""

_TEXT_FORMATS = {".csv": "csv", ".tsv": "tsv", ".txt": "txt", ".ndjson": "ndjson"}


@dataclass(frozen=True)
class ListFormat:
    """The format of a file by its name: ``csv``, ``tsv``, ``txt``, ``ndjson`` or ``parquet``."""

    name: str
    gzipped: bool


def list_format(url: str) -> ListFormat:
    """The format of a file, by the ending of its name.

    Raises:
        ListUnreadableError: The ending is not one of the supported formats.
    """
    name = url.split("?", maxsplit=1)[0].lower()
    gzipped = name.endswith(".gz")
    plain = name.removesuffix(".gz")
    for ending, form in _TEXT_FORMATS.items():
        if plain.endswith(ending):
            return ListFormat(form, gzipped)
    if plain.endswith(".parquet") and not gzipped:
        return ListFormat("parquet", gzipped=False)
    fault = "the file's ending is none of .csv, .tsv, .txt, .ndjson (each also .gz) and .parquet"
    raise ListUnreadableError(url, "", fault)


class ListFile:
    """One file, read once from its beginning to its end.

    Args:
        url: A local path or an fsspec URL.
        columns: ``source.columns`` of mm.yaml; empty: the header is recognized.
        encoding: ``source.encoding`` of mm.yaml; None: the encoding is detected.
        consent: ``source.consent`` of mm.yaml; None: known columns of consent are recognized.

    Attributes:
        columns: Which columns are which schema keys.
        consent: Which columns record consent.
        format: The format of the file.
        delimiter: The character between the fields; None for NDJSON and Parquet.

    Raises:
        ListError: The file is missing, cannot be read, or lacks a column.
    """

    def __init__(
        self,
        url: str,
        columns: Mapping[str, str] | None = None,
        *,
        encoding: str | None = None,
        consent: ConsentSetting = None,
    ) -> None:
        self.url = url
        self.format = list_format(url)
        self.delimiter: str | None = None
        self._content = Bytes(url)
        self._text: Text | None = None
        self._table: Delimited | NdJson | ParquetList
        if self.format.name == "parquet":
            self._table = ParquetList(url)
        else:
            self._text = Text(url, self._content.blocks, encoding)
            if self.format.name == "ndjson":
                self._table = NdJson(url, self._text.blocks())
            else:
                self._table = Delimited(url, self._text.blocks())
                self.delimiter = self._table.delimiter
        self.columns: Columns = match_columns(url, self._table.header, columns)
        self.consent: ConsentColumns = match_consent(url, self._table.header, consent)

    @property
    def encoding(self) -> str | None:
        """The text's encoding as known so far; None for Parquet."""
        return None if self._text is None else self._text.encoding

    @property
    def encoding_confidence(self) -> float:
        """The confidence of a guessed encoding, 0 to 1; 1 for any other and for Parquet."""
        return 1.0 if self._text is None else self._text.confidence

    @property
    def unread_names(self) -> tuple[str, ...]:
        """The name columns that are blanked because the encoding is uncertain."""
        if self._text is None or self._text.is_certain:
            return ()
        return tuple(key for key in NAMES if key in self.columns.places)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file's bytes; complete when ``chunks`` is exhausted."""
        if isinstance(self._table, ParquetList):
            return self._table.fingerprint
        return self._content.fingerprint

    @property
    def size(self) -> int | None:
        """Bytes of the file; complete when ``chunks`` is exhausted."""
        if isinstance(self._table, ParquetList):
            return self._table.stat.size if self._table.stat else None
        return self._content.size

    def chunks(self, rows_before: int = 0) -> Iterator[pl.DataFrame]:
        """Frames of ``row_number``, ``agreed`` and one text column per key (blank is ``""``).

        From the first name that is not ASCII on, the name columns are blank if the encoding is
        uncertain.

        Args:
            rows_before: The rows in the list's earlier files. Row numbers continue from there;
                an error names the row within this file.

        Raises:
            ListRowError: A row is broken; the error names the first.
            ListUnreadableError: The file is damaged.
            ListChangedError: A Parquet file changed while it was read.
        """
        places = places_read(self.columns, self.consent)
        done = rows_before
        for cells in self._table.chunks(places):
            frame = to_rows(cells, self.columns, self.consent, done)
            done += frame.height
            # A name in the wrong encoding matches no one; without it the row may still match.
            yield frame.with_columns(pl.lit("").alias(key) for key in self.unread_names)
        if isinstance(self._table, ParquetList) and stat_list(self.url) != self._table.stat:
            raise ListChangedError(self.url, "", "the list changed while it was read")
