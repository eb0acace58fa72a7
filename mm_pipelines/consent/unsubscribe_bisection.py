"""Unsubscribing at Meta, and finding the rows it refuses.

Meta answers a chunk with a number of invalid rows and does not say which (graph-api-facts 2.10).
Unsubscribing twice is the same as once, so half of the chunk is sent again: its answer tells how
many are in either half, and so on to the single row. The calls that this may take are bounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mm_pipelines.consent.identifiers import Leaver
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow, unsubscribe


@dataclass
class Traced:
    """What became of the rows of one chunk, by their places in it.

    Attributes:
        accepted: Meta took them.
        refused: Meta calls them invalid.
        untraced: Some of them are invalid, and the bound was reached before it was known which.
        calls: Made in all.
    """

    accepted: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    untraced: list[int] = field(default_factory=list)
    calls: int = 0


def chunks(leavers: Sequence[Leaver], rows: int) -> Iterator[list[Leaver]]:
    """People in groups of at most so many rows; who has several keeps them together."""
    group: list[Leaver] = []
    size = 0
    for leaver in leavers:
        if group and size + len(leaver.rows) > rows:
            yield group
            group, size = [], 0
        group.append(leaver)
        size += len(leaver.rows)
    if group:
        yield group


def unsubscribe_traced(
    client: GraphApiClient, page_id: str, rows: Sequence[UnsubscribeRow], *, calls: int
) -> Traced:
    """Unsubscribe one chunk of people, and tell those whom Meta refused from the others.

    Args:
        client: With the Page's token.
        page_id: Of the Page.
        rows: Of one chunk.
        calls: The most that may be made, at least 1.

    Raises:
        GraphApiError: As `graph_api.unsubscribe.unsubscribe`.
    """
    traced = Traced(calls=1)
    invalid = unsubscribe(client, page_id, rows)
    waiting = [(range(len(rows)), invalid)]
    while waiting:
        places, invalid = waiting.pop()
        if invalid <= 0:
            traced.accepted.extend(places)
        elif invalid >= len(places):
            traced.refused.extend(places)
        elif traced.calls >= calls:
            traced.untraced.extend(places)
        else:
            middle = len(places) // 2
            first, rest = places[:middle], places[middle:]
            traced.calls += 1
            in_first = unsubscribe(client, page_id, [rows[place] for place in first])
            waiting += [(rest, invalid - in_first), (first, in_first)]
    return traced
