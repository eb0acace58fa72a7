"""Which cells of a customer list are blank: nobody's value, although something is written there."""

import polars as pl

from mm_pipelines.identity.text import trimmed

#: Written-out nulls of databases and languages, and the faults that spreadsheets leave in a cell.
WRITTEN_OUT_NULLS = frozenset(
    {
        "null", "(null)", "<null>", "none", "nan", "n/a", "<na>", "nil", "undefined", "\\n",
        "-", "--", "---", "\N{EN DASH}", "\N{EM DASH}",
        "#n/a", "#n/a n/a", "#ref!", "#value!", "#name?", "#null!", "#num!", "#div/0!",
        "#error!", "#spill!", "#calc!", "#getting_data",
    }
)  # fmt: skip


def is_blank(value: pl.Expr) -> pl.Expr:
    """Whether a cell stands for no value (design 7.15): empty, a written-out null, a fault.

    Args:
        value: Text as it stands in the list; null counts as blank.
    """
    return trimmed(value.fill_null("")).str.to_lowercase().is_in(["", *sorted(WRITTEN_OUT_NULLS)])
