"""The outcome of a list's rows: counts and row numbers, never values."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntFlag

import polars as pl

from mm_pipelines.lists.rows import ROW_NUMBER


class Reason(IntFlag):
    """Why a row is rejected; several can apply. The names are those in ``mm.rejected_row``."""

    no_identifier = 1
    invalid_email = 2
    phone_without_country = 4
    invalid_phone = 8
    no_consent = 16
    phone_in_scientific_notation = 32


REJECTED_ROW_SCHEMA = pl.Schema({ROW_NUMBER: pl.Int64(), "reasons": pl.List(pl.String)})


class RejectedRows:
    """The rejected rows of one list, nine bytes each, so a list of rejected rows fits in memory."""

    def __init__(self, coded: pl.DataFrame) -> None:
        self._coded = coded

    def __len__(self) -> int:
        return self._coded.height

    def __repr__(self) -> str:
        return f"<RejectedRows: {len(self):,}>"

    def frames(self, rows: int = 100_000) -> Iterator[pl.DataFrame]:
        """Yield frames of ``row_number`` and ``reasons`` (list of text), in the list's order."""
        for coded in self._coded.iter_slices(rows):
            yield coded.select(
                ROW_NUMBER,
                pl.col("reasons")
                .cast(pl.Int64)
                .replace_strict(_NAMES_BY_CODE, return_dtype=pl.List(pl.String)),
            )

    def counts(self) -> dict[str, int]:
        """Return the number of rows for each reason, the most frequent first."""
        counts = {
            reason.name or "": int((self._coded["reasons"] & reason.value != 0).sum())
            for reason in Reason
        }
        found = {name: count for name, count in counts.items() if count}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


_NAMES_BY_CODE = {
    code: [reason.name or "" for reason in Reason if code & reason]
    for code in range(1, 2 * max(Reason))
}


@dataclass(frozen=True)
class HashedPayload:
    """A published payload file and the counts of its making.

    ``accepted + merged + rejected + suppressed == read``.

    Attributes:
        path: The file's path in the storage.
        url: The file's address.
        sha256: The digest of the file's bytes, which is also the file name.
        fingerprint: SHA-256 of the list it was made from.
        keys: The schema keys that are its columns, in order.
        read: Rows of the list.
        accepted: Rows of the file, one per person.
        merged: Rows of a person who is in the file through another row.
        rejected: Rows without a usable EMAIL or PHONE, or without consent.
        suppressed: Rows of opted-out people.
        usable: Key to the number of rows read with a usable value.
        blanked: Key to the number of accepted rows whose value was unusable.
        unknown_countries: Rows read whose COUNTRY is filled but not understood. Their phones are
            usable only with a country code.
        former_phones: Accepted rows, merged ones included, whose phone had another hash under
            earlier rules.
        rejected_rows: The rejected rows with their reasons.
    """

    path: str
    url: str
    sha256: str
    fingerprint: str
    keys: tuple[str, ...]
    read: int
    accepted: int
    merged: int
    rejected: int
    suppressed: int
    usable: dict[str, int]
    blanked: dict[str, int]
    unknown_countries: int
    former_phones: int
    rejected_rows: RejectedRows = field(compare=False)

    @property
    def accounted_for(self) -> int:
        """The rows that are accepted, merged, rejected or suppressed."""
        return self.accepted + self.merged + self.rejected + self.suppressed

    @property
    def no_row_lost(self) -> bool:
        """Whether every row of the list is accounted for."""
        return self.accounted_for == self.read

    @property
    def rejection_reasons(self) -> dict[str, int]:
        """The number of rejected rows for each reason; a row can have several reasons."""
        return self.rejected_rows.counts()
