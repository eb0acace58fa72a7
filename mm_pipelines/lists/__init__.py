"""Customer lists as people have them: found, recognised, read in a stream, never copied."""

from mm_pipelines.lists.errors import (
    ListChangedError,
    ListError,
    ListHeaderError,
    ListMissingError,
    ListRowError,
    ListUnreadableError,
)
from mm_pipelines.lists.location import ListStat, list_url, stat_list
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
    "list_url",
    "stat_list",
]
