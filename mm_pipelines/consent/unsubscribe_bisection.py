"""Unsubscribes a chunk of rows at Meta and finds the rows that Meta refuses.

Meta returns the number of invalid rows of a chunk but not which (docs/graph-api.md#unsubscribing).
Unsubscribing twice has the same effect as once, so half of the chunk is sent again: the answer
gives the number of invalid rows in each half, and so on down to single rows. The number of calls is
bounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mm_pipelines.consent.identifiers import OptOut
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.unsubscribe import UnsubscribeRow, unsubscribe


@dataclass
class BisectionResult:
    """The outcome of each row of a chunk, by its index.

    Attributes:
        accepted: Rows that Meta accepted.
        refused: Rows that Meta calls invalid.
        unresolved: Rows of which some are invalid; the limit of calls was reached before it was
            known which.
        calls: The number of calls made.
    """

    accepted: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    unresolved: list[int] = field(default_factory=list)
    calls: int = 0


def chunks(opt_outs: Sequence[OptOut], rows: int) -> Iterator[list[OptOut]]:
    """Yield groups of at most ``rows`` rows; the rows of one request stay together."""
    group: list[OptOut] = []
    size = 0
    for opt_out in opt_outs:
        if group and size + len(opt_out.rows) > rows:
            yield group
            group, size = [], 0
        group.append(opt_out)
        size += len(opt_out.rows)
    if group:
        yield group


def unsubscribe_by_bisection(
    client: GraphApiClient, page_id: str, rows: Sequence[UnsubscribeRow], *, calls: int
) -> BisectionResult:
    """Unsubscribe one chunk and find the rows that Meta refuses.

    Args:
        client: With the Page's token.
        page_id: The Page.
        rows: The rows of one chunk.
        calls: The most calls to make, at least 1.

    Raises:
        GraphApiError: See `graph_api.unsubscribe.unsubscribe`.
    """
    result = BisectionResult(calls=1)
    invalid = unsubscribe(client, page_id, rows)
    waiting = [(range(len(rows)), invalid)]
    while waiting:
        places, invalid = waiting.pop()
        if invalid <= 0:
            result.accepted.extend(places)
        elif invalid >= len(places):
            result.refused.extend(places)
        elif result.calls >= calls:
            result.unresolved.extend(places)
        else:
            middle = len(places) // 2
            first, rest = places[:middle], places[middle:]
            result.calls += 1
            in_first = unsubscribe(client, page_id, [rows[place] for place in first])
            waiting += [(rest, invalid - in_first), (first, in_first)]
    return result
