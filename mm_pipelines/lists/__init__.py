"""Customer lists in every common form: located, recognized and read as a stream, never copied."""

from mm_pipelines.lists.errors import (
    ListChangedError,
    ListError,
    ListHeaderError,
    ListMissingError,
    ListRowError,
    ListUnreadableError,
)
from mm_pipelines.lists.location import ListStat, list_files, list_url, stat_list
from mm_pipelines.lists.reading import CustomerList
from mm_pipelines.lists.report import ListReport, inspect_list
from mm_pipelines.lists.source import fingerprint

__all__ = [
    "CustomerList",
    "ListChangedError",
    "ListError",
    "ListHeaderError",
    "ListMissingError",
    "ListReport",
    "ListRowError",
    "ListStat",
    "ListUnreadableError",
    "fingerprint",
    "inspect_list",
    "list_files",
    "list_url",
    "stat_list",
]
