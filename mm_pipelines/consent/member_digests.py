"""The suppression digests of every audience's people, computed once and kept as files.

A file per Custom Audience has an entry for each e-mail and phone of its uploads and each key: the
first 64 bits of the suppression digest, the first 64 bits of the hash, and the upload. Comparing
kept digests takes a hundredth of the time of computing them. An entry means that the person may be
a member; the membership and the whole hash decide.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.delivery import deltas, membership
from mm_pipelines.delivery.anti_join import identities
from mm_pipelines.delivery.deltas import Delta
from mm_pipelines.delivery.membership import MembershipFile
from mm_pipelines.identity import IDENTIFIERS
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.digests import suppression_digests
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.warehouse.database import Database

FOLDER: Final = "member_digests"

_HEX_DIGITS = 16
"""Of 64 bits: among a billion entries, a wrong match has a chance of one in ten billion."""

_ROWS_PER_GROUP = 250_000

# Entries of people who left are dropped when a file is made anew.
_MOST_ENTRIES_PER_PERSON = 4
_ENTRIES_ALWAYS_KEPT = 100_000

_COLUMNS = "custom_audience_id, path, entries, through_delta_id, fingerprints"

# Returns the file of a Custom Audience, or no row.
_FIND = text(f"""
select {_COLUMNS} from mm.member_digest_file where custom_audience_id = :custom_audience_id
""")

# Returns the files of the Custom Audiences in use.
_ALL = text(f"""
select {_COLUMNS} from mm.member_digest_file
where custom_audience_id in (select custom_audience_id from mm.custom_audience)
""")

# Returns the Custom Audiences in use whose file lacks an upload or a key, or contains people who
# were removed a day ago.
_OUTDATED = text("""
select known.custom_audience_id
from mm.custom_audience as known
cross join lateral (
    select max(id) as newest from mm.upload_delta
    where custom_audience_id = known.custom_audience_id and operation = 'add' and row_count > 0
) as upload
left join mm.member_digest_file as file using (custom_audience_id)
left join mm.suppression_sweep as sweep using (custom_audience_id)
where upload.newest is not null
  and (file.path is null or file.through_delta_id < upload.newest
       or not file.fingerprints @> cast(:fingerprints as text[])
       or (file.written_at < now() - interval '1 day' and sweep.swept_at > file.written_at))
order by known.audience
""")

# Records a newer file.
_RECORD = text("""
insert into mm.member_digest_file
    (custom_audience_id, path, entries, through_delta_id, fingerprints)
values (:custom_audience_id, :path, :entries, :through_delta_id, :fingerprints)
on conflict (custom_audience_id) do update
set path = excluded.path, entries = excluded.entries, written_at = now(),
    through_delta_id = excluded.through_delta_id, fingerprints = excluded.fingerprints
""")

# Forgets a file.
_FORGET = text("delete from mm.member_digest_file where path = :path")

# Returns the paths of the files in use.
_PATHS = text("select path from mm.member_digest_file")

# Returns the digests of people who are members no more, and the newest upload that was searched.
_GONE = text("""
select sweep.through_delta_id, array(
    select digest from mm.suppression where id <= search.through_id
) as digests
from mm.suppression_sweep as sweep cross join mm.suppression_search as search
where sweep.custom_audience_id = :custom_audience_id and sweep.found_at is null
""")


@dataclass(frozen=True)
class DigestFile:
    """The file of one Custom Audience.

    Attributes:
        through_delta_id: The newest upload in it.
        fingerprints: The keys that the digests were made with.
    """

    custom_audience_id: str
    path: str
    entries: int
    through_delta_id: int
    fingerprints: Sequence[str]


def find(connection: Connection, custom_audience_id: str) -> DigestFile | None:
    """Return the file of a Custom Audience; None before it is written."""
    row = connection.execute(_FIND, {"custom_audience_id": custom_audience_id}).one_or_none()
    return DigestFile(**row._asdict()) if row else None


def files(connection: Connection) -> list[DigestFile]:
    """Return the files of the Custom Audiences in use."""
    return [DigestFile(**row._asdict()) for row in connection.execute(_ALL)]


def paths_in_use(connection: Connection) -> set[str]:
    """Return the paths that retention keeps."""
    return set(connection.scalars(_PATHS))


def refresh(database: Database, storage: Storage, suppression_keys: SuppressionKeys) -> int:
    """Add new uploads to the files of their audiences; a rerun goes on with the rest.

    Returns:
        The number of files written.
    """
    fingerprints = suppression_keys.fingerprints
    with database.transaction() as connection:
        outdated = list(connection.scalars(_OUTDATED, {"fingerprints": fingerprints}))
    for custom_audience_id in outdated:
        with database.lock(f"member_digests:{custom_audience_id}", wait=True):
            _write(database, storage, suppression_keys, custom_audience_id)
    return len(outdated)


def matches(storage: Storage, of: Sequence[DigestFile], digests: Iterable[str]) -> pl.DataFrame:
    """Return the entries with one of these digests.

    Args:
        storage: Holds the files.
        of: The files to search.
        digests: From the suppression list.

    Returns:
        ``custom_audience_id``, ``delta_id`` and ``hash``, the first hex digits of the hash.

    Raises:
        FileNotFoundError: A file is missing; see `forget_missing`.
    """
    wanted = _leading_bits(pl.Series(list(digests), dtype=pl.String))
    if not of or wanted.is_empty():
        schema = {"custom_audience_id": pl.String, "delta_id": pl.Int64, "hash": pl.String}
        return pl.DataFrame(schema=schema)
    entries = pl.scan_parquet([storage.local(file.path) for file in of], include_file_paths="path")
    found = entries.filter(pl.col("digest").is_in(wanted.implode())).collect(engine="streaming")
    return found.select(
        pl.col("path").str.split("/").list.get(-2).alias("custom_audience_id"),
        "delta_id",
        pl.Series("hash", [f"{bits:0{_HEX_DIGITS}x}" for bits in found["hash"]], pl.String),
    )


def keep_hashes(people: pl.LazyFrame, hashes: pl.Series) -> pl.LazyFrame:
    """Return the rows of which EMAIL or PHONE begins with one of the ``hashes`` of `matches`."""
    return people.filter(
        pl.any_horizontal(
            pl.col(name).str.head(_HEX_DIGITS).is_in(hashes.implode()) for name in IDENTIFIERS
        )
    )


def forget_missing(database: Database, storage: Storage, of: Iterable[DigestFile]) -> None:
    """Forget files that the storage has lost, so that `refresh` writes them again."""
    lost = [file.path for file in of if not storage.exists(file.path)]
    with database.transaction() as connection:
        for path in lost:
            connection.execute(_FORGET, {"path": path})


def _write(
    database: Database, storage: Storage, suppression_keys: SuppressionKeys, custom_audience_id: str
) -> None:
    with database.transaction() as connection:
        file = find(connection, custom_audience_id)
        members = membership.members_of(connection, custom_audience_id)
        uploads = _uploads(connection, custom_audience_id)
        values = {"custom_audience_id": custom_audience_id}
        gone = connection.execute(_GONE, values).one_or_none()
    fingerprints = suppression_keys.fingerprints
    if file and _can_grow(file, storage, fingerprints, uploads, members.count):
        since = file.through_delta_id
        kept = storage.scan(file.path)
        if gone:
            kept = kept.filter(~_is_gone(gone.digests, gone.through_delta_id))
    else:
        since, kept = _from_membership(storage, suppression_keys, members.file)
    newer = [each for each in uploads if each.id > since and storage.exists(each.path)]
    entries = [kept, *(_entries(storage, each.path, each.id, suppression_keys) for each in newer)]
    published = storage.publish(
        f"{FOLDER}/{custom_audience_id}",
        ".parquet",
        lambda path: pl.concat(entries).sink_parquet(
            path, compression="uncompressed", row_group_size=_ROWS_PER_GROUP
        ),
    )
    count = storage.scan(published.path).select(pl.len()).collect().item()
    written = DigestFile(custom_audience_id, published.path, count, uploads[-1].id, fingerprints)
    with database.transaction() as connection:
        connection.execute(_RECORD, vars(written))


def _uploads(connection: Connection, custom_audience_id: str) -> list[Delta]:
    every = deltas.after(connection, custom_audience_id, 0)
    return [delta for delta, _ in every if delta.operation == "add"]


def _can_grow(
    file: DigestFile,
    storage: Storage,
    fingerprints: Sequence[str],
    uploads: Sequence[Delta],
    people: int,
) -> bool:
    """Whether new uploads can be added; otherwise the file is made anew from the membership."""
    newer = [upload for upload in uploads if upload.id > file.through_delta_id]
    return (
        set(fingerprints).issubset(file.fingerprints)
        and file.entries <= _MOST_ENTRIES_PER_PERSON * people + _ENTRIES_ALWAYS_KEPT
        and all(storage.exists(path) for path in [file.path, *(each.path for each in newer)])
    )


def _from_membership(
    storage: Storage, suppression_keys: SuppressionKeys, file: MembershipFile | None
) -> tuple[int, pl.LazyFrame]:
    """The newest upload in the membership file, and the entries of its people."""
    if file is None:
        schema = {"digest": pl.UInt64, "hash": pl.UInt64, "delta_id": pl.Int64}
        return 0, pl.LazyFrame(schema=schema)
    through = file.through_delta_id
    return through, _entries(storage, file.path, through, suppression_keys)


def _is_gone(digests: Sequence[str], through_delta_id: int) -> pl.Expr:
    bits = _leading_bits(pl.Series(digests, dtype=pl.String))
    return pl.col("digest").is_in(bits.implode()) & (pl.col("delta_id") <= through_delta_id)


def _entries(
    storage: Storage, path: str, delta_id: int, suppression_keys: SuppressionKeys
) -> pl.LazyFrame:
    people = identities(storage.scan(path))
    return pl.concat(
        people.filter(pl.col(name) != "").select(
            digest=_bits(suppression_digests(pl.col(name), key)),
            hash=_bits(pl.col(name)),
            delta_id=pl.lit(delta_id, pl.Int64),
        )
        for name in IDENTIFIERS
        for key in suppression_keys.all
    )


def _leading_bits(digests: pl.Series) -> pl.Series:
    return digests.to_frame("digest").select(_bits(pl.col("digest"))).to_series()


def _bits(hexadecimal: pl.Expr) -> pl.Expr:
    return hexadecimal.str.head(_HEX_DIGITS).str.to_integer(base=16, dtype=pl.UInt64)
