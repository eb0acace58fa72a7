"""Which cells of a customer list are blank: nobody's value, although something is written there."""

import polars as pl

#: Written-out nulls of databases and languages, and the faults that spreadsheets leave in a cell.
WRITTEN_OUT_NULLS = frozenset(
    {
        "null", "(null)", "<null>", "none", "nan", "n/a", "<na>", "nil", "undefined", "\\n",
        "-", "--", "---", "–", "—",
        "#n/a", "#n/a n/a", "#ref!", "#value!", "#name?", "#null!", "#num!", "#div/0!",
        "#error!", "#spill!", "#calc!", "#getting_data",
    }
)  # fmt: skip

#: White space of every script, and the marks that nobody sees but a copied cell often carries.
UNSEEN = "".join(
    map(
        chr,
        [
            *range(0x21), 0x7F, 0x85, 0xA0, 0xAD, 0x1680, *range(0x2000, 0x2010),
            0x2028, 0x2029, *range(0x202A, 0x2030), 0x205F, 0x2060, 0x3000, 0xFEFF,
        ],
    )
)  # fmt: skip


def is_blank(value: pl.Expr) -> pl.Expr:
    """Whether a cell stands for no value (design 7.15): empty, a written-out null, ``#N/A``…

    Args:
        value: Text as it stands in the list; null counts as blank.
    """
    text = value.fill_null("").str.strip_chars(UNSEEN).str.to_lowercase()
    return text.is_in(["", *sorted(WRITTEN_OUT_NULLS)])
