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
from mm_pipelines.suppression.suppression_list import SuppressionKeyError, check_key

Kind = Literal["psid", "token"]

# Adds digests; a later erasure of the same contact renews its time.
_ADD = text("""
insert into mm.erased_contact as known (page_id, digest)
select distinct page_id, digest
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
    key: bytes = field(repr=False)
    erased_at: dict[str, datetime] = field(repr=False)

    def __bool__(self) -> bool:
        return bool(self.erased_at)

    def when(self, kind: Kind, contact: str | None) -> datetime | None:
        """When a contact was erased; None if it was not."""
        if not self.erased_at or not contact:
            return None
        return self.erased_at.get(_digest(Contact(self.page_id, kind, contact), self.key))

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
            _digest(Contact(self.page_id, kind, contact), self.key) for kind, contact in contacts
        ]
        values = {"page_id": self.page_id, "digests": digests}
        return connection.execute(_LIFT, values).rowcount

    def _is_erased(self, kind: Kind, column: str) -> pl.Expr:
        text = pl.lit(_prefix(self.page_id, kind)) + pl.col(column)
        digests = pl.Series("digest", list(self.erased_at), dtype=pl.String)
        return suppression_digests(text, self.key).is_in(digests.implode()).fill_null(value=False)


def load(connection: Connection, page_id: str, key: bytes | None) -> ErasedContacts:
    """Return the erased contacts of a Page.

    Raises:
        SuppressionKeyError: There are some, and ``key`` is not the key in use.
    """
    erased_at = {
        row.digest: row.erased_at for row in connection.execute(_OF_PAGE, {"page_id": page_id})
    }
    if erased_at:
        if key is None:
            raise SuppressionKeyError
        check_key(connection, key)
    return ErasedContacts(page_id, key or b"", erased_at)


def add(connection: Connection, contacts: Sequence[Contact], key: bytes) -> None:
    """Record contacts as erased, in the caller's transaction."""
    values = {
        "page_id": [contact.page_id for contact in contacts],
        "digest": [_digest(contact, key) for contact in contacts],
    }
    connection.execute(_ADD, values)


def _digest(contact: Contact, key: bytes) -> str:
    return suppression_digest(_prefix(contact.page_id, contact.kind) + contact.contact, key)


def _prefix(page_id: str, kind: Kind) -> str:
    # The digest depends on the Page, so that it does not link a person's contacts on several.
    return f"{page_id}\n{kind}\n"
