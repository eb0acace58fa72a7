"""Text in the form in which it is compared: trimmed, one case, one Unicode form."""

import polars as pl

INVISIBLE = "".join(
    map(
        chr,
        [
            *range(0x21), 0x7F, 0x85, 0xA0, 0xAD, 0x1680, *range(0x2000, 0x2010),
            0x2028, 0x2029, *range(0x202A, 0x2030), 0x205F, 0x2060, 0x3000, 0xFEFF,
        ],
    )
)  # fmt: skip
"""White space of every script, and the invisible marks that copied cells often carry."""


def trimmed(value: pl.Expr) -> pl.Expr:
    """The text without white space and invisible marks around it."""
    return value.str.strip_chars(INVISIBLE)


def composed(value: pl.Expr) -> pl.Expr:
    """The text in Unicode's form NFC: one code point per letter where there is one."""
    return value.map_batches(_composed, return_dtype=pl.String)


def lower(value: pl.Expr) -> pl.Expr:
    """The text in lower case and NFC; lower case can decompose a letter, so NFC comes last too."""
    return composed(composed(value).str.to_lowercase())


def _composed(values: pl.Series) -> pl.Series:
    # Composing is slow and does not change ASCII, which most text is.
    wide = (values.str.len_bytes() != values.str.len_chars()).fill_null(value=False)
    if not wide.any():
        return values
    return put(values, wide, values.filter(wide).str.normalize("NFC"))


def put(values: pl.Series, where: pl.Series, replacements: pl.Series) -> pl.Series:
    """``values`` with those marked by ``where`` replaced, in order."""
    # clone() copies the reference only; scatter writes to a column of its own if it is shared.
    return values.clone().scatter(where.arg_true(), replacements)
