"""Finds quotes inside unquoted fields.

RFC 4180 allows a quote only around a field, and doubled inside a quoted one. Elsewhere, a lost
delimiter may have moved the place where a field begins.
"""

from collections.abc import Sequence

import polars as pl

_QUOTE = b'"'


def has_stray_quotes(data: bytes, delimiter: bytes) -> bool:
    """Whether whole records contain a quote inside an unquoted field, or one that is not closed.

    Args:
        data: Records with their line ends.
        delimiter: The character between the fields.
    """
    pieces = data.split(_QUOTE)
    if len(pieces) % 2 == 0:
        return True
    # Every second piece is outside quotes; an empty one is inside a doubled quote.
    outside = pl.Series(pieces[::2], dtype=pl.Binary)
    inner = pl.DataFrame({"after": outside[1:], "before": outside[:-1]})
    after, before = pl.col("after").bin, pl.col("before").bin
    ends = (delimiter, b"\n", b"\r")
    sound = inner.select(
        after=pl.any_horizontal(after.size() == 0, *(after.starts_with(end) for end in ends)).all(),
        before=pl.any_horizontal(
            before.size() == 0, *(before.ends_with(end) for end in ends[:2])
        ).all(),
    )
    return sound.row(0) != (True, True)


def is_ambiguous(record: str, fields: Sequence[str], delimiter: str) -> bool:
    """Whether quotes leave open where the fields of a record end.

    A single field with quotes, such as ``5" pipe``, leaves nothing open. With two, the delimiter
    between them may belong to one field whose quotes are damaged.
    """
    with_quotes = sum('"' in field for field in fields)
    return with_quotes > 1 and has_stray_quotes(record.encode(), delimiter.encode())
