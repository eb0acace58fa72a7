"""A frame of raw cells to a frame of normalised or hashed values, key by key.

Most columns hold few distinct values (names, cities, countries…), so each distinct value is
normalised and hashed once and then looked up, which costs a tenth of doing it row by row.
"""

from collections.abc import Callable

import polars as pl

from mm_pipelines.identity import demographics, device, names, places
from mm_pipelines.identity.country import country, country_code, region_of
from mm_pipelines.identity.email import emails
from mm_pipelines.identity.hashing import sha256
from mm_pipelines.identity.keys import DATE_OF_BIRTH, KEYS, PLAIN
from mm_pipelines.identity.phone import normalise_phones

_REGION = "region"

_BY_VALUE: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "GEN": demographics.gender,
    "DOBY": demographics.birth_year,
    "DOBM": demographics.birth_month,
    "DOBD": demographics.birth_day,
    "LN": names.name,
    "FN": names.name,
    "FI": names.first_initial,
    "CT": places.city,
    "MADID": device.mobile_advertiser_id,
    "EXTERN_ID": device.external_id,
}
_BY_VALUE_AND_COUNTRY: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "ST": places.state,
    "ZIP": places.postal_code,
}
_BIRTH = ("DOBY", "DOBM", "DOBD")


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
    return _columns(frame, default_country, hashed=False)


def normalise_and_hash(frame: pl.DataFrame, *, default_country: str | None = None) -> pl.DataFrame:
    """The values as they are uploaded: ``normalise``, then SHA-256 but for MADID and EXTERN_ID."""
    return _columns(frame, default_country, hashed=True)


def regions(frame: pl.DataFrame, *, default_country: str | None = None) -> pl.Series:
    """The lower-case alpha-2 code that each row's phone is read by, ``""`` where none is known."""
    default = (country_code(default_country) if default_country else None) or ""
    if "COUNTRY" not in frame.columns:
        return pl.Series([default], dtype=pl.String).new_from_index(0, frame.height)
    return _by_distinct(
        frame.select("COUNTRY"), [region_of(country(pl.col("COUNTRY"))).replace("", default)]
    ).to_series()


def _columns(frame: pl.DataFrame, default_country: str | None, *, hashed: bool) -> pl.DataFrame:
    region = regions(frame, default_country=default_country)
    columns: dict[str, pl.Series] = {}
    for key in frame.columns:
        if key == "EMAIL":
            columns[key] = _finished(key, emails(frame[key]), hashed=hashed)
        elif key == "PHONE":
            columns[key] = _finished(key, normalise_phones(frame[key], region), hashed=hashed)
        elif key == DATE_OF_BIRTH:
            continue
        elif key in _BY_VALUE or key == "COUNTRY":
            rule = _BY_VALUE.get(key, country)
            expression = _hashed(key, rule(pl.col(key)), hashed=hashed)
            columns[key] = _by_distinct(frame.select(key), [expression]).to_series()
        elif key in _BY_VALUE_AND_COUNTRY:
            rule_here = _BY_VALUE_AND_COUNTRY[key]
            expression = _hashed(key, rule_here(pl.col(key), pl.col(_REGION)), hashed=hashed)
            cells = frame.select(key, region.alias(_REGION))
            columns[key] = _by_distinct(cells, [expression]).to_series()
    if DATE_OF_BIRTH in frame.columns:
        cells = frame.select(DATE_OF_BIRTH, region.alias(_REGION))
        parts = demographics.date_of_birth(pl.col(DATE_OF_BIRTH), pl.col(_REGION))
        born = _by_distinct(
            cells,
            [
                _hashed(key, part, hashed=hashed).alias(key)
                for key, part in zip(_BIRTH, parts, strict=True)
            ],
        )
        for key in _BIRTH:
            columns[key] = _first_known(columns.get(key), born[key])
    return pl.DataFrame([columns[key].alias(key) for key in KEYS if key in columns])


def _by_distinct(cells: pl.DataFrame, expressions: list[pl.Expr]) -> pl.DataFrame:
    """Expressions over each distinct row of ``cells``, brought back to every row."""
    cells = cells.select(pl.all().fill_null(""))
    inputs = cells.columns
    distinct = cells.unique()
    results = distinct.select(*inputs, *(one.name.suffix(" done") for one in expressions))
    looked_up = cells.join(results, on=inputs, how="left", maintain_order="left")
    done = looked_up.drop(inputs)
    return done.rename(lambda name: name.removesuffix(" done"))


def _hashed(key: str, value: pl.Expr, *, hashed: bool) -> pl.Expr:
    return sha256(value) if hashed and key not in PLAIN else value


def _finished(key: str, values: pl.Series, *, hashed: bool) -> pl.Series:
    return values.to_frame(key).select(_hashed(key, pl.col(key), hashed=hashed)).to_series()


def _first_known(explicit: pl.Series | None, derived: pl.Series) -> pl.Series:
    if explicit is None:
        return derived
    return pl.select(
        pl.when((explicit != "").fill_null(value=False)).then(explicit).otherwise(derived)
    ).to_series()
