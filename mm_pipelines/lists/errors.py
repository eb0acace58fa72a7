"""What can be wrong with a customer list, as one tree.

    ListError                the list cannot be used; names the file, the place and the fault
    ├── ListMissingError     there is no such file
    ├── ListUnreadableError  the file's format, compression or encoding is broken
    ├── ListRowError         one row breaks the form of the table
    ├── ListHeaderError      the columns are not what is needed
    └── ListChangedError     the bytes are not those that were validated

A message names the file, the place and the fault, never what a cell holds.
"""

from mm_pipelines.storage import without_credentials


class ListError(Exception):
    """A customer list cannot be used.

    Attributes:
        file: The list's path or URL, without credentials.
        place: Where in the list: ``row 1,204`` (the first data row is 1), ``header``, or ``""``.
        fault: What is wrong there.
    """

    def __init__(self, file: str, place: str, fault: str) -> None:
        self.file, self.place, self.fault = without_credentials(file), place, fault
        super().__init__(": ".join(part for part in (self.file, place, fault) if part))


class ListMissingError(ListError):
    """There is no such file."""


class ListUnreadableError(ListError):
    """The file's format, compression or encoding is broken."""


class ListRowError(ListError):
    """One row breaks the form of the table."""


class ListHeaderError(ListError):
    """The columns are not what is needed."""


class ListChangedError(ListError):
    """The bytes are not those that were validated."""


def row(number: int) -> str:
    """A row as a message names it."""
    return f"row {number:,}"
