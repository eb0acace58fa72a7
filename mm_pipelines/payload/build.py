"""From a customer list to a published payload file, in one stream."""

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from mm_pipelines.identity import (
    DATE_OF_BIRTH,
    IDENTIFIERS,
    KEYS,
    normalise_and_hash,
    regions,
)
from mm_pipelines.lists.errors import ListChangedError
from mm_pipelines.lists.reading import ROW_NUMBER, CustomerList
from mm_pipelines.payload.ahead import in_order
from mm_pipelines.payload.people import People, payload_schema
from mm_pipelines.payload.report import HashedPayload, Reason, RejectedRows
from mm_pipelines.payload.suppression import Suppression
from mm_pipelines.storage import Storage

_BIRTH = ("DOBY", "DOBM", "DOBD")
_ROWS_A_GROUP = 100_000


def build_hashed_payload(
    url: str,
    storage: Storage,
    *,
    folder: str,
    columns: Mapping[str, str] | None = None,
    default_country: str | None = None,
    expected_fingerprint: str | None = None,
    suppression: Suppression | None = None,
) -> HashedPayload:
    """Normalise, hash and deduplicate a list, and publish it as one immutable Parquet file.

    The file has one row per person, ordered by ``row_number``: the schema keys that the list has,
    in the order of ``identity.KEYS``, each a hash (MADID and EXTERN_ID plain) or ``""``, and
    ``row_number``, the row of the list that it was made from. The same list gives the same file.
    Raw values are held in memory only, a chunk at a time.

    Args:
        url: The list: a local path or an fsspec URL.
        storage: Where the file is published.
        folder: The file's folder there.
        columns: ``source.columns`` of mm.yaml.
        default_country: Alpha-2 code for rows whose COUNTRY tells none.
        expected_fingerprint: What ``inspect_list`` saw; None to take the list as it is.
        suppression: People to leave out.

    Raises:
        ListError: The list cannot be used.
        ListChangedError: Its bytes are not those of ``expected_fingerprint``; nothing is published.
    """
    reading = CustomerList(url, columns)
    keys = _payload_keys(reading)
    tally = _Tally(keys)
    with tempfile.TemporaryDirectory(prefix="mm-hashed-") as scratch:
        people = People(keys, Path(scratch))
        hashing = partial(_hashed_chunk, default_country=default_country)
        for chunk, hashed, region in in_order(hashing, reading.chunks()):
            accepted = tally.count(chunk, hashed, region)
            kept = suppression.without_suppressed(accepted) if suppression else accepted
            tally.suppressed += accepted.height - kept.height
            people.add(kept)
        if expected_fingerprint is not None and reading.fingerprint != expected_fingerprint:
            fault = "the list changed; materialise customer_list again"
            raise ListChangedError(url, "", fault)
        people.merge()
        published = storage.publish(folder, ".parquet", lambda path: _write(people, keys, path))
    return HashedPayload(
        path=published.path,
        url=storage.url(published.path),
        sha256=published.sha256,
        fingerprint=reading.fingerprint,
        keys=keys,
        read=tally.read,
        accepted=people.added - people.merged,
        merged=people.merged,
        rejected=tally.rejected,
        suppressed=tally.suppressed,
        usable=tally.usable,
        blanked=tally.blanked,
        rejected_rows=tally.rejected_rows(),
    )


def _hashed_chunk(
    chunk: pl.DataFrame, *, default_country: str | None
) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
    hashed = normalise_and_hash(chunk, default_country=default_country)
    return chunk, hashed, regions(chunk, default_country=default_country)


class _Tally:
    """Counts rows and values, and tells the rows of somebody from those of nobody."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.read = self.rejected = self.suppressed = 0
        self.usable = dict.fromkeys(keys, 0)
        self.blanked = dict.fromkeys(keys, 0)
        self._identifiers = [key for key in IDENTIFIERS if key in keys]
        self._rejected: list[pl.DataFrame] = []

    def count(self, raw: pl.DataFrame, hashed: pl.DataFrame, region: pl.Series) -> pl.DataFrame:
        """Count a chunk; return the rows with a usable identifier, unusable values blanked."""
        self.read += raw.height
        somebody = hashed.select(
            pl.any_horizontal(
                (pl.col(key) != "").fill_null(value=False) for key in self._identifiers
            )
        ).to_series()
        rows = hashed.with_columns(raw[ROW_NUMBER])
        if not somebody.all():
            nobody = ~somebody
            self._reject(raw.filter(nobody), hashed.filter(nobody), region.filter(nobody))
            usable = hashed.filter(nobody)
            self._add(self.usable, usable.select((pl.all() != "").sum()))
            rows = rows.filter(somebody)
        values = rows.select(pl.exclude(ROW_NUMBER))
        self._add(self.usable, values.select((pl.all() != "").sum()))
        self._add(self.blanked, values.null_count())
        return rows.with_columns(pl.exclude(ROW_NUMBER).fill_null(""))

    def rejected_rows(self) -> RejectedRows:
        schema = {ROW_NUMBER: pl.Int64, "reasons": pl.UInt8}
        return RejectedRows(pl.concat([pl.DataFrame(schema=schema), *self._rejected]))

    def _reject(self, raw: pl.DataFrame, hashed: pl.DataFrame, region: pl.Series) -> None:
        self.rejected += raw.height
        reasons = pl.lit(0, dtype=pl.UInt8)
        cells = {ROW_NUMBER: raw[ROW_NUMBER], "region": region}
        if "EMAIL" in self._identifiers:
            cells["email"] = hashed["EMAIL"]
            reasons += _code(pl.col("email").is_null(), Reason.invalid_email)
        if "PHONE" in self._identifiers:
            cells |= {"phone": hashed["PHONE"], "raw": raw["PHONE"]}
            national = (pl.col("region") == "") & pl.col("raw").str.contains(
                r"^[^+\x{FF0B}\p{Nd}]*\p{Nd}"
            )
            unusable = pl.col("phone").is_null()
            reasons += _code(unusable & national, Reason.phone_without_country)
            reasons += _code(unusable & ~national, Reason.invalid_phone)
        reasons = pl.when(reasons == 0).then(Reason.no_identifier.value).otherwise(reasons)
        coded = pl.DataFrame(cells).select(ROW_NUMBER, reasons.cast(pl.UInt8).alias("reasons"))
        self._rejected.append(coded)

    def _add(self, counts: dict[str, int], row: pl.DataFrame) -> None:
        for key, count in row.row(0, named=True).items():
            counts[key] += count


def _code(holds: pl.Expr, reason: Reason) -> pl.Expr:
    return pl.when(holds).then(reason.value).otherwise(0).cast(pl.UInt8)


def _payload_keys(reading: CustomerList) -> tuple[str, ...]:
    found = set(reading.columns.places)
    if DATE_OF_BIRTH in found:
        found.update(_BIRTH)
    return tuple(key for key in KEYS if key in found)


def _write(people: People, keys: tuple[str, ...], path: Path) -> None:
    def frames(
        _columns: list[str] | None, _predicate: pl.Expr | None, _rows: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        return people.frames()

    register_io_source(frames, schema=payload_schema(keys)).sink_parquet(
        path,
        # Hashes do not compress: half a second a million rows would buy half the size at best.
        compression="uncompressed",
        statistics=False,
        row_group_size=_ROWS_A_GROUP,
    )
