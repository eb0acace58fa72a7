"""From a customer list to a published payload file, in one stream."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from mm_pipelines.concurrent import ordered_map
from mm_pipelines.identity import DATE_OF_BIRTH, KEYS, DistinctCache, PhoneConvention
from mm_pipelines.lists.errors import ListChangedError
from mm_pipelines.lists.rows import ROW_NUMBER
from mm_pipelines.lists.source import RowSource, RowStream
from mm_pipelines.payload.chunk import HashedChunk, hash_chunk
from mm_pipelines.payload.deduplication import Deduplicator, payload_schema
from mm_pipelines.payload.registry import FORMER_PHONE
from mm_pipelines.payload.report import HashedPayload, RejectedRows
from mm_pipelines.scratch import ScratchFolder
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.suppression_list import SuppressionList

_DATE_OF_BIRTH_PARTS = ("DOBY", "DOBM", "DOBD")
_ROWS_PER_GROUP = 100_000


def build_hashed_payload(
    source: RowSource,
    storage: Storage,
    *,
    folder: str,
    default_country: str | None = None,
    phone_convention: PhoneConvention | None = None,
    expected_fingerprint: str | None = None,
    suppression: SuppressionList | None = None,
) -> HashedPayload:
    """Normalize, hash and deduplicate a list, and publish it as one immutable Parquet file.

    The file has one row per person, ordered by ``row_number``. Its columns are the schema keys that
    the list has, in the order of ``identity.KEYS``, each a hash (MADID and EXTERN_ID plain) or
    ``""``, and ``row_number``, the row of the list it was made from. Where earlier rules gave other
    hashes to phones, ``former_phone`` has these. The same list gives the same file. Raw values are
    held in memory only, one chunk at a time.

    Args:
        source: The list.
        storage: Receives the file.
        folder: The file's folder in the storage.
        default_country: Alpha-2 code of rows without a COUNTRY.
        phone_convention: How the list writes bare phone numbers, as its validation found.
        expected_fingerprint: The fingerprint from ``inspect_list``; None skips the comparison.
        suppression: Opted-out people, who are excluded.

    Raises:
        ListError: The list cannot be used.
        ListChangedError: Its bytes differ from ``expected_fingerprint``; nothing is published.
    """
    reading = source.open()
    keys = _payload_keys(reading)
    tally = _Tally(keys)
    with ScratchFolder() as scratch:
        further = (FORMER_PHONE,) if "PHONE" in keys else ()
        people = Deduplicator(keys, scratch.path, further)
        work = partial(
            hash_chunk,
            keys=keys,
            default_country=default_country,
            convention=phone_convention,
            cache=DistinctCache(),
            suppression=suppression,
        )
        for chunk in ordered_map(work, reading.chunks()):
            tally.add(chunk)
            people.add(chunk.people)
        if expected_fingerprint is not None and reading.fingerprint != expected_fingerprint:
            fault = (
                "The list changed after it was validated. "
                "Materialize customer_list for this partition again."
            )
            raise ListChangedError(source.name, "", fault)
        people.merge()
        published = storage.publish(folder, ".parquet", partial(_write, people, tally.columns))
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
        unknown_countries=tally.unknown_countries,
        former_phones=tally.former_phones,
        rejected_rows=tally.rejected_rows(),
    )


class _Tally:
    """Sums the counts of the chunks and keeps the rejected rows."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.read = self.rejected = self.suppressed = 0
        self.usable = dict.fromkeys(keys, 0)
        self.blanked = dict.fromkeys(keys, 0)
        self.unknown_countries = 0
        self.former_phones = 0
        self._rejected: list[pl.DataFrame] = []

    def add(self, chunk: HashedChunk) -> None:
        self.read += chunk.read
        self.rejected += chunk.rejected.height
        self.suppressed += chunk.suppressed
        self._rejected.append(chunk.rejected)
        self.unknown_countries += chunk.unknown_countries
        if FORMER_PHONE in chunk.people.columns:
            self.former_phones += int((chunk.people[FORMER_PHONE] != "").sum())
        for total, counts in ((self.usable, chunk.usable), (self.blanked, chunk.blanked)):
            for key, count in counts.items():
                total[key] += count

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the payload before ``row_number``."""
        return (*self.usable, FORMER_PHONE) if self.former_phones else tuple(self.usable)

    def rejected_rows(self) -> RejectedRows:
        schema = {ROW_NUMBER: pl.Int64, "reasons": pl.UInt8}
        return RejectedRows(pl.concat([pl.DataFrame(schema=schema), *self._rejected]))


def _payload_keys(reading: RowStream) -> tuple[str, ...]:
    found = set(reading.columns.places)
    if DATE_OF_BIRTH in found:
        found.update(_DATE_OF_BIRTH_PARTS)
    return tuple(key for key in KEYS if key in found)


def _write(people: Deduplicator, columns: tuple[str, ...], path: Path) -> None:
    def frames(
        _columns: list[str] | None, _predicate: pl.Expr | None, _rows: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        return (frame.select(schema.names()) for frame in people.people())

    schema = payload_schema(columns)
    register_io_source(frames, schema=schema).sink_parquet(
        path,
        compression="zstd",
        # Hashes compress to half at any level. Higher levels only take longer.
        compression_level=1,
        statistics=False,
        row_group_size=_ROWS_PER_GROUP,
    )
