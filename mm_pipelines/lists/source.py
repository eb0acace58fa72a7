"""Where a list comes from. Every kind of source gives the same stream of rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from mm_pipelines.lists.consent import ConsentColumns, ConsentSetting
from mm_pipelines.lists.headers import Columns
from mm_pipelines.lists.list_file import ListFormat
from mm_pipelines.lists.location import stat_list
from mm_pipelines.lists.reading import CustomerList, FileRead
from mm_pipelines.storage import without_credentials


class RowStream(Protocol):
    """An open list, read once from its beginning to its end.

    Attributes:
        columns: Which columns are which schema keys.
        consent: Which columns record consent.
        format: The format of the list.
        delimiter: The character between the fields, where there is one.
        files: The files read so far; empty for a query.
        ordered: Whether the rows have the same numbers each time the list is read.
    """

    columns: Columns
    consent: ConsentColumns
    format: ListFormat
    delimiter: str | None
    ordered: bool

    @property
    def files(self) -> Sequence[FileRead]:
        """The files read so far; empty for a query."""
        ...

    @property
    def encoding(self) -> str | None:
        """The text encodings, where there are any."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when a row changes; complete when ``chunks`` is exhausted."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes read; None for a query."""
        ...

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Frames of ``row_number``, ``agreed`` and one text column per key (blank is ``""``).

        Raises:
            ListError: The list cannot be used to its end.
        """
        ...


class RowSource(Protocol):
    """A list as mm.yaml describes it, for one day.

    Attributes:
        name: How messages and metadata name it, without credentials.
    """

    @property
    def name(self) -> str:
        """How messages and metadata name it, without credentials."""
        ...

    def exists(self) -> bool:
        """Whether there is a list to read.

        Raises:
            OSError: The store cannot be reached.
        """
        ...

    def mark(self) -> str | None:
        """A text that changes when the list does, found without reading it; None if unknown.

        Raises:
            OSError: The store cannot be reached.
        """
        ...

    def open(self) -> RowStream:
        """Read the header.

        Raises:
            ListError: The list is missing, cannot be read, or lacks a column.
        """
        ...


@dataclass(frozen=True)
class FileSource:
    """A list in a file, a folder or a glob of files.

    Attributes:
        url: A local path or an fsspec URL.
        columns: ``source.columns`` of mm.yaml; empty: the header is recognized.
        encoding: ``source.encoding`` of mm.yaml; None: the encoding is detected.
        consent: ``source.consent`` of mm.yaml; None: known columns of consent are recognized.
    """

    url: str
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    consent: ConsentSetting = None

    @property
    def name(self) -> str:
        """The address without credentials."""
        return without_credentials(self.url)

    def exists(self) -> bool:
        """Whether there is a file."""
        return stat_list(self.url) is not None

    def mark(self) -> str | None:
        """The state of the files; None if there is none."""
        stat = stat_list(self.url)
        return None if stat is None else stat.mark

    def open(self) -> CustomerList:
        """Read the first file's header."""
        return CustomerList(self.url, self.columns, encoding=self.encoding, consent=self.consent)
