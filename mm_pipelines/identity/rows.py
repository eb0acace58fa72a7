"""From a frame of raw cells to a frame of normalized or hashed values, key by key."""

from collections.abc import Callable
from functools import partial

import polars as pl

from mm_pipelines.identity import demographics, device, names, places
from mm_pipelines.identity.cells import apply_rule
from mm_pipelines.identity.country import country, country_code, region_of
from mm_pipelines.identity.distinct_cache import DistinctCache
from mm_pipelines.identity.email import PLAIN_ADDRESS_PATTERN, email
from mm_pipelines.identity.hashing import sha256
from mm_pipelines.identity.keys import COLUMNS, DATE_OF_BIRTH, KEYS, PLAIN
from mm_pipelines.identity.phone import (
    PhoneConvention,
    PhoneSpellings,
)
from mm_pipelines.identity.phone import (
    columns as phone_columns,
)

_REGION = "region"

_BY_VALUE: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "EMAIL": email,
    "GEN": demographics.gender,
    "DOBY": demographics.birth_year,
    "DOBM": demographics.birth_month,
    "DOBD": demographics.birth_day,
    "LN": names.name,
    "FN": names.name,
    "FI": names.first_initial,
    "CT": places.city,
    "COUNTRY": country,
    "MADID": device.mobile_advertiser_id,
    "EXTERN_ID": device.external_id,
}
_BY_COUNTRY: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "ST": places.state,
    "ZIP": places.postal_code,
}
_PLAIN_PATTERNS = {
    "EMAIL": PLAIN_ADDRESS_PATTERN,
    "LN": names.PLAIN_NAME_PATTERN,
    "FN": names.PLAIN_NAME_PATTERN,
}
_MOSTLY_DISTINCT = frozenset({"EMAIL", "MADID", "EXTERN_ID"})
"""Nearly every row has another value, so a cache would not help."""


def normalize(
    frame: pl.DataFrame,
    *,
    default_country: str | None = None,
    convention: PhoneConvention | None = None,
) -> pl.DataFrame:
    """The values in the form that Meta hashes.

    Args:
        frame: Text columns named by schema keys, ``DOB`` among them if there is one date of
            birth; null is a blank cell. Other columns are ignored.
        default_country: Alpha-2 code of rows whose COUNTRY is blank.
        convention: How the list writes bare phone numbers; None for a list without one.

    Returns:
        One column per key in the order of ``KEYS``; ``""`` where the cell is blank, null where
        the value cannot be used.
    """
    return _columns(frame, default_country, convention, DistinctCache(), None, hashed=False)


def normalize_and_hash(
    frame: pl.DataFrame,
    *,
    default_country: str | None = None,
    convention: PhoneConvention | None = None,
    cache: DistinctCache | None = None,
    readings: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The values as they are uploaded: ``normalize``, then SHA-256 but for MADID and EXTERN_ID.

    ``cache`` is for the chunks of one list, with one ``default_country``. ``readings`` are those
    of ``phone_readings``, where the caller has them already.
    """
    return _columns(
        frame, default_country, convention, cache or DistinctCache(), readings, hashed=True
    )


def phone_readings(
    frame: pl.DataFrame, *, default_country: str | None = None
) -> pl.DataFrame | None:
    """Every normalized form of each row's phone; None without a column PHONE.

    Args:
        frame: As for ``normalize``.
        default_country: Alpha-2 code of rows whose COUNTRY is blank.
    """
    if "PHONE" not in frame.columns:
        return None
    regions = phone_regions(frame, default_country=default_country)
    return phone_columns.phone_readings(frame["PHONE"], regions)


def ambiguous_phone_hashes(readings: pl.DataFrame) -> pl.DataFrame:
    """The hashes of every form of the phones that can be read in more than one way.

    An opted-out person may be on the suppression list under any of them.

    Args:
        readings: Of ``phone_readings``.

    Returns:
        ``row`` (from 0) and ``PHONE`` (a hash), two or three rows for each such phone. Phones with
        one reading are absent.
    """
    first, *others = readings.columns
    return (
        readings.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        .filter(pl.any_horizontal(pl.col(first).ne_missing(pl.col(form)) for form in others))
        .unpivot(index="row", value_name="PHONE")
        .select("row", pl.col("PHONE").map_batches(sha256, return_dtype=pl.String))
        .drop_nulls()
        .unique(maintain_order=True)
    )


def former_phone_hashes(readings: pl.DataFrame) -> pl.DataFrame:
    """The hashes that earlier versions gave to phones which can be read in more than one way.

    Args:
        readings: Of ``phone_readings``.

    Returns:
        ``row`` (from 0) and ``former_phone`` (a hash).
    """
    first, *others = readings.columns
    former = pl.col("libphonenumber").map_batches(sha256, return_dtype=pl.String)
    return (
        readings.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        .filter(pl.any_horizontal(pl.col(first).ne_missing(pl.col(form)) for form in others))
        .select("row", former_phone=former)
        .filter(pl.col("former_phone") != "")
    )


def count_phone_spellings(
    frame: pl.DataFrame, *, default_country: str | None = None
) -> PhoneSpellings:
    """Count how a chunk of a list writes bare phone numbers; nothing without a column PHONE.

    Args:
        frame: As for ``normalize``.
        default_country: Alpha-2 code of rows whose COUNTRY is blank.
    """
    if "PHONE" not in frame.columns:
        return PhoneSpellings()
    regions = phone_regions(frame, default_country=default_country)
    return phone_columns.count_phone_spellings(frame["PHONE"], regions)


def phone_regions(frame: pl.DataFrame, *, default_country: str | None = None) -> pl.Series:
    """The lower-case alpha-2 code by which each row's phone is read, ``""`` where none is known.

    A COUNTRY that is filled but not understood gives no region: the default would be wrong.
    """
    default = (country_code(default_country) if default_country else None) or ""
    if "COUNTRY" not in frame.columns:
        return pl.Series([default], dtype=pl.String).new_from_index(0, frame.height)
    normalized = country(pl.col("COUNTRY").fill_null(""))
    code = pl.when(normalized == "").then(pl.lit(default)).otherwise(region_of(normalized))
    cells = frame.select("COUNTRY")
    rows = DistinctCache().apply(_REGION, cells, lambda cells: cells.select(code.fill_null("")))
    return rows.to_series()


def _columns(
    frame: pl.DataFrame,
    default_country: str | None,
    convention: PhoneConvention | None,
    cache: DistinctCache,
    readings: pl.DataFrame | None,
    *,
    hashed: bool,
) -> pl.DataFrame:
    region = phone_regions(frame, default_country=default_country)
    columns: dict[str, pl.Series] = {}
    for key in set(frame.columns).intersection(COLUMNS):
        cells = frame.select(pl.col(key).fill_null(""), region.alias(_REGION))
        if key == DATE_OF_BIRTH:
            continue
        if key == "PHONE":
            if readings is None:
                phones = phone_columns.normalize_phones(cells[key], region, convention)
            else:
                phones = phone_columns.by_convention(readings, region, convention)
            columns[key] = sha256(phones.alias(key)) if hashed else phones.alias(key)
        elif key in _MOSTLY_DISTINCT:
            columns[key] = _column(key, cells, hashed=hashed)
        else:
            # Only two keys depend on the country; the others have fewer distinct cells without it.
            inputs = [key, _REGION] if key in _BY_COUNTRY else [key]
            rule = partial(_frame, key, hashed=hashed)
            columns[key] = cache.apply(key, cells.select(inputs), rule).to_series()
    if DATE_OF_BIRTH in frame.columns:
        cells = frame.select(pl.col(DATE_OF_BIRTH).fill_null(""), region.alias(_REGION))
        born = cache.apply(DATE_OF_BIRTH, cells, partial(_birth, hashed=hashed))
        for key in born.columns:
            columns[key] = _first_known(columns.get(key), born[key])
    return pl.DataFrame([columns[key].alias(key) for key in KEYS if key in columns])


def _frame(key: str, cells: pl.DataFrame, *, hashed: bool) -> pl.DataFrame:
    return _column(key, cells, hashed=hashed).to_frame()


def _column(key: str, cells: pl.DataFrame, *, hashed: bool) -> pl.Series:
    """One key's cells as they are uploaded; ``cells`` has the key and perhaps the region."""
    if key in _PLAIN_PATTERNS:
        values = apply_rule(cells[key], _BY_VALUE[key], plain_pattern=_PLAIN_PATTERNS[key])
    elif key in _BY_COUNTRY:
        values = cells.select(_BY_COUNTRY[key](pl.col(key), pl.col(_REGION))).to_series()
    else:
        values = cells.select(_BY_VALUE[key](pl.col(key))).to_series()
    values = values.alias(key)
    return sha256(values) if hashed and key not in PLAIN else values


def _birth(cells: pl.DataFrame, *, hashed: bool) -> pl.DataFrame:
    parts = demographics.date_of_birth(pl.col(DATE_OF_BIRTH), pl.col(_REGION))
    born = cells.select(
        part.alias(key) for key, part in zip(("DOBY", "DOBM", "DOBD"), parts, strict=True)
    )
    return pl.DataFrame([sha256(column) for column in born]) if hashed else born


def _first_known(explicit: pl.Series | None, derived: pl.Series) -> pl.Series:
    if explicit is None:
        return derived
    known = (explicit != "").fill_null(value=False)
    return explicit.zip_with(known, derived)
