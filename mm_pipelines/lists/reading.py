"""A customer list, of one file or of several, as a stream of frames."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from mm_pipelines.lists.consent import ConsentSetting
from mm_pipelines.lists.errors import (
    ListChangedError,
    ListHeaderError,
    ListMissingError,
    ListUnreadableError,
)
from mm_pipelines.lists.list_file import ListFile
from mm_pipelines.lists.location import list_files
from mm_pipelines.storage import without_credentials


@dataclass(frozen=True)
class FileRead:
    """One file of a list, after it was read.

    Attributes:
        name: The path below the folder that all files of the list share.
        rows_before: The rows of the earlier files: row 1 of this file is row ``rows_before + 1``
            of the list.
        rows: Data rows.
        size: Bytes.
        fingerprint: SHA-256 of the file's bytes.
        encoding: The text's encoding; None for Parquet.
        encoding_confidence: Of a guessed encoding, 0 to 1; 1 for any other and for Parquet.
        unread_names: The name columns that are blanked because the encoding is uncertain.
    """

    name: str
    rows_before: int
    rows: int
    size: int
    fingerprint: str
    encoding: str | None
    encoding_confidence: float
    unread_names: tuple[str, ...]


class CustomerList:
    """One list, read once from its beginning to its end.

    Args:
        url: A local path or an fsspec URL, of a file, a folder or a glob.
        columns: ``source.columns`` of mm.yaml; empty: the header is recognized.
        encoding: ``source.encoding`` of mm.yaml; None: the encoding is detected.
        consent: ``source.consent`` of mm.yaml; None: known columns of consent are recognized.

    Attributes:
        columns: Which columns are which schema keys.
        consent: Which columns record consent.
        format: The format of the first file.
        delimiter: The character between the first file's fields; None for NDJSON and Parquet.
        files: The files read so far.
        ordered: True: the rows of a file keep their numbers.

    Raises:
        ListError: The list is missing, cannot be read, or lacks a column.
    """

    def __init__(
        self,
        url: str,
        columns: Mapping[str, str] | None = None,
        *,
        encoding: str | None = None,
        consent: ConsentSetting = None,
    ) -> None:
        self.ordered = True
        self._mapping, self._encoding, self._consent = columns, encoding, consent
        self._urls = _existing_files(url)
        self._names = _short_names(self._urls)
        self._first = self._open(self._urls[0])
        self.url = url
        self.columns, self.consent = self._first.columns, self._first.consent
        self.format, self.delimiter = self._first.format, self._first.delimiter
        self.files: list[FileRead] = []

    @property
    def encoding(self) -> str | None:
        """The encodings of the files read so far; None for Parquet."""
        return (
            ", ".join(dict.fromkeys(file.encoding for file in self.files if file.encoding)) or None
        )

    @property
    def fingerprint(self) -> str:
        """The list's content, complete when ``chunks`` is exhausted.

        SHA-256 of the bytes of a single file, and of the names and digests of several.
        """
        if len(self._urls) == 1:
            return self.files[0].fingerprint
        listing = "".join(f"{file.fingerprint}  {file.name}\n" for file in self.files)
        return hashlib.sha256(listing.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of the files read so far."""
        return sum(file.size for file in self.files)

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Frames of ``row_number``, ``agreed`` and one text column per key (blank is ``""``).

        Row numbers run through all files; ``files`` says where each begins.

        Raises:
            ListRowError: A row is broken; the error names the first, and the row within its file.
            ListHeaderError: The files have different columns.
            ListUnreadableError: A file is damaged.
            ListChangedError: A Parquet file changed while it was read, or a file was added to the
                list or removed from it.
        """
        done = 0
        for name, url in zip(self._names, self._urls, strict=True):
            file = self._first if url == self._urls[0] else self._next(url)
            rows_before = done
            for frame in file.chunks(rows_before):
                done += frame.height
                yield frame
            self.files.append(
                FileRead(
                    name=name,
                    rows_before=rows_before,
                    rows=done - rows_before,
                    size=file.size or 0,
                    fingerprint=file.fingerprint,
                    encoding=file.encoding,
                    encoding_confidence=file.encoding_confidence,
                    unread_names=file.unread_names,
                )
            )
        if _existing_files(self.url) != self._urls:
            fault = "a file was added or removed while the list was read; read the list again"
            raise ListChangedError(self.url, "", fault)

    def _open(self, url: str) -> ListFile:
        return ListFile(url, self._mapping, encoding=self._encoding, consent=self._consent)

    def _next(self, url: str) -> ListFile:
        file = self._open(url)
        if (file.columns.headers, file.consent.headers) != (
            self.columns.headers,
            self.consent.headers,
        ):
            fault = (
                f"the columns that are read differ from those of {self._names[0]}; "
                "write all files of a list with the same columns"
            )
            raise ListHeaderError(url, "header", fault)
        return file


def _short_names(urls: Sequence[str]) -> list[str]:
    names = [without_credentials(url) for url in urls]
    # Characters, because commonpath() drops the second slash of a URL.
    shared = os.path.commonprefix([name[: name.rfind("/") + 1] for name in names])  # noqa: RUF071
    return [name[shared.rfind("/") + 1 :] for name in names]


def _existing_files(url: str) -> tuple[str, ...]:
    try:
        files = list_files(url)
    except OSError as error:
        fault = f"cannot be opened: {error.strerror or type(error).__name__}"
        raise ListUnreadableError(url, "", fault) from None
    if not files:
        raise ListMissingError(url, "", "there is no such file")
    return files
