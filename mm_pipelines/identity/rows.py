"""A frame of raw cells to a frame of normalised or hashed values, key by key."""

from collections.abc import Callable
from functools import partial

import polars as pl

from mm_pipelines.identity import demographics, device, names, places
from mm_pipelines.identity.country import country, country_code, region_of
from mm_pipelines.identity.email import PLAIN_ADDRESS_PATTERN, email
from mm_pipelines.identity.hashing import sha256
from mm_pipelines.identity.keys import COLUMNS, DATE_OF_BIRTH, KEYS, PLAIN
from mm_pipelines.identity.outcome import by_rule
from mm_pipelines.identity.phone import normalise_phones
from mm_pipelines.identity.repeated import Remembered

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
#: Nearly every row has another value, so that looking for equal ones is wasted.
_MOSTLY_DISTINCT = frozenset({"EMAIL", "PHONE", "MADID", "EXTERN_ID"})


def normalise(frame: pl.DataFrame, *, default_country: str | None = None) -> pl.DataFrame:
    """The values in the form that Meta hashes.

    Args:
        frame: Text columns named by schema keys, ``DOB`` among them if there is one date of
            birth; null is a blank cell. Other columns are ignored.
        default_country: Alpha-2 code of rows whose COUNTRY tells none.

    Returns:
        One column per key in the order of ``KEYS``; ``""`` where the cell is blank, null where
        what is written there cannot be used.
    """
    return _columns(frame, default_country, Remembered(), hashed=False)


def normalise_and_hash(
    frame: pl.DataFrame,
    *,
    default_country: str | None = None,
    remembered: Remembered | None = None,
) -> pl.DataFrame:
    """The values as they are uploaded: ``normalise``, then SHA-256 but for MADID and EXTERN_ID.

    ``remembered`` is for the chunks of one list, with one ``default_country``.
    """
    return _columns(frame, default_country, remembered or Remembered(), hashed=True)


def regions(frame: pl.DataFrame, *, default_country: str | None = None) -> pl.Series:
    """The lower-case alpha-2 code that each row's phone is read by, ``""`` where none is known."""
    default = (country_code(default_country) if default_country else None) or ""
    if "COUNTRY" not in frame.columns:
        return pl.Series([default], dtype=pl.String).new_from_index(0, frame.height)
    code = region_of(country(pl.col("COUNTRY"))).replace("", default)
    cells = frame.select("COUNTRY")
    return Remembered().by_distinct(_REGION, cells, lambda cells: cells.select(code)).to_series()


def _columns(
    frame: pl.DataFrame, default_country: str | None, remembered: Remembered, *, hashed: bool
) -> pl.DataFrame:
    region = regions(frame, default_country=default_country)
    columns: dict[str, pl.Series] = {}
    for key in set(frame.columns).intersection(COLUMNS):
        cells = frame.select(pl.col(key).fill_null(""), region.alias(_REGION))
        if key == DATE_OF_BIRTH:
            continue
        if key in _MOSTLY_DISTINCT:
            columns[key] = _column(key, cells, hashed=hashed)
        else:
            # Only these two are read by the country; others have fewer distinct cells without it.
            inputs = [key, _REGION] if key in _BY_COUNTRY else [key]
            rule = partial(_frame, key, hashed=hashed)
            columns[key] = remembered.by_distinct(key, cells.select(inputs), rule).to_series()
    if DATE_OF_BIRTH in frame.columns:
        cells = frame.select(pl.col(DATE_OF_BIRTH).fill_null(""), region.alias(_REGION))
        born = remembered.by_distinct(DATE_OF_BIRTH, cells, partial(_birth, hashed=hashed))
        for key in born.columns:
            columns[key] = _first_known(columns.get(key), born[key])
    return pl.DataFrame([columns[key].alias(key) for key in KEYS if key in columns])


def _frame(key: str, cells: pl.DataFrame, *, hashed: bool) -> pl.DataFrame:
    return _column(key, cells, hashed=hashed).to_frame()


def _column(key: str, cells: pl.DataFrame, *, hashed: bool) -> pl.Series:
    """One key's cells as they are uploaded; ``cells`` has the key and perhaps the region."""
    if key == "PHONE":
        values = normalise_phones(cells[key], cells[_REGION])
    elif key in _PLAIN_PATTERNS:
        values = by_rule(cells[key], _BY_VALUE[key], plain_pattern=_PLAIN_PATTERNS[key])
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
