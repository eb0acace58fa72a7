"""Customer lists in every common form: located, recognized and read as a stream, never copied."""

from mm_pipelines.lists.errors import (
    ListChangedError,
    ListError,
    ListHeaderError,
    ListMissingError,
    ListRowError,
    ListUnreadableError,
)
from mm_pipelines.lists.file_bytes import fingerprint
from mm_pipelines.lists.location import ListStat, list_files, list_url, stat_list
from mm_pipelines.lists.query import QuerySource
from mm_pipelines.lists.reading import CustomerList
from mm_pipelines.lists.report import ListReport, inspect_list
from mm_pipelines.lists.source import FileSource, RowSource, RowStream

__all__ = [
    "CustomerList",
    "FileSource",
    "ListChangedError",
    "ListError",
    "ListHeaderError",
    "ListMissingError",
    "ListReport",
    "ListRowError",
    "ListStat",
    "ListUnreadableError",
    "QuerySource",
    "RowSource",
    "RowStream",
    "fingerprint",
    "inspect_list",
    "list_files",
    "list_url",
    "stat_list",
]
