"""What becomes of one chunk of a list: its people, hashed, and the rows of nobody.

Nothing here knows of other chunks, so that several can be worked on side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from mm_pipelines.identity import IDENTIFIERS, Remembered, normalise_and_hash, regions
from mm_pipelines.lists.reading import ROW_NUMBER
from mm_pipelines.payload.people import with_person
from mm_pipelines.payload.report import Reason
from mm_pipelines.suppression.suppression_list import SuppressionList

_VALUES = pl.exclude(ROW_NUMBER)


@dataclass(frozen=True)
class ChunkOutcome:
    """A chunk's people and counts.

    Attributes:
        people: Rows of somebody, as ``People.add`` takes them: the keys, hashed, ``""`` where
            absent or unusable.
        rejected: ``row_number`` and the ``Reason``, as a number, of each row of nobody.
        read: How many rows there were.
        suppressed: How many rows were left out because their people asked for it.
        usable: Key to the number of rows read that hold a usable value.
        blanked: Key to the number of rows, not rejected, whose value was unusable.
    """

    people: pl.DataFrame
    rejected: pl.DataFrame
    read: int
    suppressed: int
    usable: dict[str, int]
    blanked: dict[str, int]


def outcome_of(
    chunk: pl.DataFrame,
    *,
    keys: Sequence[str],
    default_country: str | None,
    remembered: Remembered,
    suppression: SuppressionList | None,
) -> ChunkOutcome:
    """Normalise and hash a chunk, and tell the rows of somebody from those of nobody.

    Args:
        chunk: As ``CustomerList.chunks`` gives it.
        keys: The schema keys of the payload.
        default_country: Alpha-2 code for rows whose COUNTRY tells none.
        remembered: What the list's repeated cells became until now.
        suppression: People to leave out.
    """
    hashed = normalise_and_hash(chunk, default_country=default_country, remembered=remembered)
    identifiers = [key for key in IDENTIFIERS if key in keys]
    usable = (_VALUES != "").sum()
    somebody = hashed.select(
        pl.any_horizontal((pl.col(key) != "").fill_null(value=False) for key in identifiers)
    ).to_series()
    rows = hashed.with_columns(chunk[ROW_NUMBER])
    rejected = chunk.select(ROW_NUMBER, reasons=pl.lit(0, pl.UInt8)).clear()
    if not somebody.all():
        region = regions(chunk, default_country=default_country)
        nobody = ~somebody
        rejected = _rejected(chunk.filter(nobody), hashed.filter(nobody), region.filter(nobody))
        rows = rows.filter(somebody)
    accepted = rows.with_columns(_VALUES.fill_null(""))
    people = suppression.exclude(accepted) if suppression else accepted
    return ChunkOutcome(
        people=with_person(people, identifiers),
        rejected=rejected,
        read=chunk.height,
        suppressed=accepted.height - people.height,
        usable=hashed.select(usable).row(0, named=True),
        blanked=rows.select(_VALUES.null_count()).row(0, named=True),
    )


def _rejected(raw: pl.DataFrame, hashed: pl.DataFrame, region: pl.Series) -> pl.DataFrame:
    reasons = pl.lit(0, dtype=pl.UInt8)
    cells = {ROW_NUMBER: raw[ROW_NUMBER], "region": region}
    if "EMAIL" in hashed.columns:
        cells["email"] = hashed["EMAIL"]
        reasons += _code(pl.col("email").is_null(), Reason.invalid_email)
    if "PHONE" in hashed.columns:
        cells |= {"phone": hashed["PHONE"], "raw": raw["PHONE"]}
        national = (pl.col("region") == "") & pl.col("raw").str.contains(
            r"^[^+\x{FF0B}\p{Nd}]*\p{Nd}"
        )
        unusable = pl.col("phone").is_null()
        reasons += _code(unusable & national, Reason.phone_without_country)
        reasons += _code(unusable & ~national, Reason.invalid_phone)
    reasons = pl.when(reasons == 0).then(Reason.no_identifier.value).otherwise(reasons)
    return pl.DataFrame(cells).select(ROW_NUMBER, reasons.cast(pl.UInt8).alias("reasons"))


def _code(holds: pl.Expr, reason: Reason) -> pl.Expr:
    return pl.when(holds).then(reason.value).otherwise(0).cast(pl.UInt8)
