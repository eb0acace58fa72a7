"""Erased people's PSIDs and tokens, as keyed digests in ``mm.erased_contact``.

Webhooks and listings of Meta may name an erased person again. They are compared with the digests
and ignored, until the person opts in again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

import polars as pl
from sqlalchemy import Connection, text

from mm_pipelines.suppression.digests import suppression_digest, suppression_digests
from mm_pipelines.suppression.keys import SuppressionKeyError, SuppressionKeys, check_keys

Kind = Literal["psid", "token"]

# Adds digests; a later erasure of the same contact renews its time.
_ADD = text("""
insert into mm.erased_contact as known (page_id, digest, fingerprint)
select distinct page_id, digest, :fingerprint
from unnest(cast(:page_id as text[]), cast(:digest as text[])) as contact (page_id, digest)
on conflict (page_id, digest) do update set erased_at = now()
""")

# Returns the digests of a Page and when they were added.
_OF_PAGE = text("select digest, erased_at from mm.erased_contact where page_id = :page_id")

# Deletes digests.
_LIFT = text("delete from mm.erased_contact where page_id = :page_id and digest = any(:digests)")


class Contact(NamedTuple):
    """A PSID or token of one Page."""

    page_id: str
    kind: Kind
    contact: str


@dataclass(frozen=True)
class ErasedContacts:
    """The erased contacts of one Page.

    Attributes:
        erased_at: The time of each erasure, by digest.
    """

    page_id: str
    keys: SuppressionKeys = field(repr=False)
    erased_at: dict[str, datetime] = field(repr=False)

    def __bool__(self) -> bool:
        return bool(self.erased_at)

    def when(self, kind: Kind, contact: str | None) -> datetime | None:
        """When a contact was erased; None if it was not."""
        if not self.erased_at or not contact:
            return None
        digests = _digests(Contact(self.page_id, kind, contact), self.keys)
        return max(
            (self.erased_at[each] for each in digests if each in self.erased_at), default=None
        )

    def tokens_of_erased_people(self, listed: pl.DataFrame) -> pl.Series:
        """The tokens that are erased, or whose recipient is.

        Args:
            listed: The columns ``token`` and ``recipient_id``, which may be null.
        """
        is_erased = [self._is_erased("token", "token"), self._is_erased("psid", "recipient_id")]
        return listed.filter(pl.any_horizontal(is_erased))["token"].unique()

    def lift(self, connection: Connection, contacts: Iterable[tuple[Kind, str]]) -> int:
        """Forget the erasure of people who opted in again.

        Returns:
            The number of contacts that were erased.
        """
        digests = [
            digest
            for kind, contact in contacts
            for digest in _digests(Contact(self.page_id, kind, contact), self.keys)
        ]
        values = {"page_id": self.page_id, "digests": digests}
        return connection.execute(_LIFT, values).rowcount

    def _is_erased(self, kind: Kind, column: str) -> pl.Expr:
        text = pl.lit(_prefix(self.page_id, kind)) + pl.col(column)
        erased = pl.Series("digest", list(self.erased_at), dtype=pl.String).implode()
        digests = [suppression_digests(text, key) for key in self.keys.all]
        return pl.any_horizontal(each.is_in(erased).fill_null(value=False) for each in digests)


def load(connection: Connection, page_id: str, keys: SuppressionKeys | None) -> ErasedContacts:
    """Return the erased contacts of a Page.

    Raises:
        SuppressionKeyError: There are some, and ``keys`` do not recognize them.
    """
    erased_at = {
        row.digest: row.erased_at for row in connection.execute(_OF_PAGE, {"page_id": page_id})
    }
    if erased_at:
        if keys is None:
            raise SuppressionKeyError
        check_keys(connection, keys)
    return ErasedContacts(page_id, keys or SuppressionKeys(b""), erased_at)


def add(connection: Connection, contacts: Sequence[Contact], keys: SuppressionKeys) -> None:
    """Record contacts as erased under the current key, in the caller's transaction."""
    values = {
        "page_id": [contact.page_id for contact in contacts],
        "digest": [_digests(contact, keys)[0] for contact in contacts],
        "fingerprint": keys.fingerprints[0],
    }
    connection.execute(_ADD, values)


def _digests(contact: Contact, keys: SuppressionKeys) -> list[str]:
    """The contact's digests, that of the current key first."""
    text = _prefix(contact.page_id, contact.kind) + contact.contact
    return [suppression_digest(text, key) for key in keys.all]


def _prefix(page_id: str, kind: Kind) -> str:
    # The digest depends on the Page, so that it does not link a person's contacts on several.
    return f"{page_id}\n{kind}\n"
