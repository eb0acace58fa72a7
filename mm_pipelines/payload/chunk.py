"""One chunk of a list: hashed rows of people, and rejected rows.

A chunk is independent of the other chunks, so several are processed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from mm_pipelines.identity import (
    IDENTIFIERS,
    DistinctCache,
    PhoneConvention,
    ambiguous_phone_hashes,
    former_phone_hashes,
    is_phone_in_scientific_notation,
    normalize_and_hash,
    phone_readings,
    phone_regions,
)
from mm_pipelines.lists.rows import AGREED, ROW_NUMBER
from mm_pipelines.payload.deduplication import with_person_key
from mm_pipelines.payload.registry import FORMER_PHONE
from mm_pipelines.payload.report import Reason
from mm_pipelines.suppression.suppression_list import SuppressionList

_VALUES = pl.exclude(ROW_NUMBER)


@dataclass(frozen=True)
class HashedChunk:
    """A chunk's people and counts.

    Attributes:
        people: Accepted rows for ``Deduplicator.add``: the keys, hashed, with ``""`` for an absent
            or unusable value, and with PHONE the column ``FORMER_PHONE``.
        rejected: ``row_number`` and the ``Reason`` as a number, for each rejected row.
        read: Rows of the chunk.
        suppressed: Rows of opted-out people, which are excluded.
        usable: Key to the number of rows with a usable value.
        blanked: Key to the number of accepted rows whose value was unusable.
        unknown_countries: Rows read whose COUNTRY is filled but not understood.
    """

    people: pl.DataFrame
    rejected: pl.DataFrame
    read: int
    suppressed: int
    usable: dict[str, int]
    blanked: dict[str, int]
    unknown_countries: int


def hash_chunk(
    chunk: pl.DataFrame,
    *,
    keys: Sequence[str],
    default_country: str | None,
    convention: PhoneConvention | None,
    cache: DistinctCache,
    suppression: SuppressionList | None,
) -> HashedChunk:
    """Normalize and hash a chunk, and separate accepted from rejected rows.

    Args:
        chunk: Rows from ``CustomerList.chunks``.
        keys: The schema keys of the payload.
        default_country: Alpha-2 code of rows without a COUNTRY.
        convention: How the list writes bare phone numbers.
        cache: Results for the values that the list repeats.
        suppression: Opted-out people, who are excluded.
    """
    readings = phone_readings(chunk, default_country=default_country)
    hashed = normalize_and_hash(
        chunk,
        default_country=default_country,
        convention=convention,
        cache=cache,
        readings=readings,
    )
    identifiers = [key for key in IDENTIFIERS if key in keys]
    usable = (_VALUES != "").sum()
    has_identifier = hashed.select(
        pl.any_horizontal((pl.col(key) != "").fill_null(value=False) for key in identifiers)
    ).to_series()
    rows = hashed.with_columns(chunk[ROW_NUMBER])
    rejected = chunk.select(ROW_NUMBER, reasons=pl.lit(0, pl.UInt8)).clear()
    kept = has_identifier & chunk[AGREED]
    if not kept.all():
        region = phone_regions(chunk, default_country=default_country)
        facts = chunk.with_columns(region.alias("region"), has_identifier.alias("has_identifier"))
        rejected = _rejected(facts.filter(~kept), hashed.filter(~kept))
        rows = rows.filter(kept)
    accepted = rows.with_columns(_VALUES.fill_null(""))
    people = accepted
    if suppression:
        people = _without_opted_out(accepted, chunk[ROW_NUMBER], readings, suppression)
    if readings is not None:
        people = _with_former_phones(people, chunk[ROW_NUMBER], readings)
    return HashedChunk(
        people=with_person_key(people, identifiers),
        rejected=rejected,
        read=chunk.height,
        suppressed=accepted.height - people.height,
        usable=hashed.select(usable).row(0, named=True),
        blanked=rows.select(_VALUES.null_count()).row(0, named=True),
        unknown_countries=hashed["COUNTRY"].null_count() if "COUNTRY" in hashed.columns else 0,
    )


def _with_former_phones(
    people: pl.DataFrame, row_numbers: pl.Series, readings: pl.DataFrame
) -> pl.DataFrame:
    former = former_phone_hashes(readings)
    if former.is_empty():
        return people.with_columns(pl.lit("").alias(FORMER_PHONE))
    numbered = former.select(row_numbers.gather(former["row"]), FORMER_PHONE)
    joined = people.join(numbered, on=ROW_NUMBER, how="left", maintain_order="left")
    differs = pl.col(FORMER_PHONE) != pl.col("PHONE")
    return joined.with_columns(pl.when(differs).then(FORMER_PHONE).otherwise(pl.lit("")))


def _without_opted_out(
    rows: pl.DataFrame,
    row_numbers: pl.Series,
    readings: pl.DataFrame | None,
    suppression: SuppressionList,
) -> pl.DataFrame:
    """The rows of people who are not on the suppression list under any reading of their phone."""
    kept = suppression.exclude(rows)
    if readings is None:
        return kept
    suppressed = suppression.keep_suppressed(ambiguous_phone_hashes(readings))["row"]
    numbers = row_numbers.gather(suppressed).implode()
    return kept.filter(~pl.col(ROW_NUMBER).is_in(numbers))


def _rejected(raw: pl.DataFrame, hashed: pl.DataFrame) -> pl.DataFrame:
    reasons = pl.lit(0, dtype=pl.UInt8)
    cells = {name: raw[name] for name in (ROW_NUMBER, AGREED, "region", "has_identifier")}
    if "EMAIL" in hashed.columns:
        cells["email"] = hashed["EMAIL"]
        reasons += _code(pl.col("email").is_null(), Reason.invalid_email)
    if "PHONE" in hashed.columns:
        cells |= {"phone": hashed["PHONE"], "raw": raw["PHONE"]}
        national = (pl.col("region") == "") & pl.col("raw").str.contains(
            r"^[^+\x{FF0B}\p{Nd}]*\p{Nd}"
        )
        unusable = pl.col("phone").is_null()
        scientific = is_phone_in_scientific_notation(pl.col("raw"))
        reasons += _code(unusable & scientific, Reason.phone_in_scientific_notation)
        unusable &= ~scientific
        reasons += _code(unusable & national, Reason.phone_without_country)
        reasons += _code(unusable & ~national, Reason.invalid_phone)
    reasons = pl.when(reasons == 0).then(Reason.no_identifier.value).otherwise(reasons)
    reasons = pl.when(pl.col("has_identifier")).then(0).otherwise(reasons)
    reasons += _code(~pl.col(AGREED), Reason.no_consent)
    return pl.DataFrame(cells).select(ROW_NUMBER, reasons.cast(pl.UInt8).alias("reasons"))


def _code(holds: pl.Expr, reason: Reason) -> pl.Expr:
    return pl.when(holds).then(reason.value).otherwise(0).cast(pl.UInt8)
