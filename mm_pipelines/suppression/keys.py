"""The keys of the digests: one, or two while ``MM_SUPPRESSION_KEY`` is being changed.

A digest cannot be made again under another key without the value. So entries keep the fingerprint
of their key, and are moved to the current key when a list, an audience or an opt-out contains their
value again. Until then the previous key is needed to recognize them.
"""

from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from mm_pipelines.suppression.digests import key_fingerprint

# Makes the first key that is ever used the current one.
_INTRODUCE = text("""
insert into mm.suppression_key (fingerprint, is_current)
select :fingerprint, true where not exists (select from mm.suppression_key)
on conflict do nothing
""")

# Returns the fingerprint of the current key.
_CURRENT = text("select fingerprint from mm.suppression_key where is_current")

# Ends the use of the current key for new entries.
_RETIRE = text("update mm.suppression_key set is_current = false where is_current")

# Makes a key the current one.
_ADOPT = text("""
insert into mm.suppression_key (fingerprint, is_current) values (:fingerprint, true)
on conflict (fingerprint) do update set is_current = true
""")

# Returns whether there are entries of other keys than these.
_NEEDS_ANOTHER = text("""
select exists (
    select from mm.suppression_key as former
    where fingerprint <> all(:fingerprints)
      and (exists (select from mm.suppression where fingerprint = former.fingerprint)
           or exists (select from mm.erased_contact where fingerprint = former.fingerprint))
)
""")

# Returns the number of entries under a key.
_COUNT = text("""
select (select count(*) from mm.suppression where fingerprint = :fingerprint)
     + (select count(*) from mm.erased_contact where fingerprint = :fingerprint)
""")


class SuppressionKeyError(Exception):
    """The keys in the environment do not recognize every entry of the suppression list."""

    def __init__(self) -> None:
        super().__init__(
            "The suppression list contains entries under another key than MM_SUPPRESSION_KEY, so "
            "opted-out people cannot be recognized. Set the previous key again (if it was never "
            "set, it is the one in MM_HOME), or set it as MM_SUPPRESSION_KEY_PREVIOUS if the key "
            "is being changed. Then run this again."
        )


@dataclass(frozen=True, slots=True)
class SuppressionKeys:
    """``MM_SUPPRESSION_KEY`` and, during a change, ``MM_SUPPRESSION_KEY_PREVIOUS``."""

    current: bytes = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)

    @property
    def all(self) -> tuple[bytes, ...]:
        """The keys that entries may have, the current one first."""
        return (self.current,) if self.previous is None else (self.current, self.previous)

    @property
    def fingerprints(self) -> list[str]:
        """The fingerprints of the keys, in the order of `all`."""
        return [key_fingerprint(key) for key in self.all]


def check_keys(connection: Connection, keys: SuppressionKeys) -> None:
    """Check that the keys recognize every entry; a new current key takes the previous one's place.

    The first key that is ever checked becomes the current one.

    Raises:
        SuppressionKeyError: An entry has another key, or another key is current.
    """
    fingerprints = keys.fingerprints
    connection.execute(_INTRODUCE, {"fingerprint": fingerprints[0]})
    current: str = connection.execute(_CURRENT).scalar_one()
    if current not in fingerprints:
        raise SuppressionKeyError
    if connection.scalar(_NEEDS_ANOTHER, {"fingerprints": fingerprints}):
        raise SuppressionKeyError
    if current != fingerprints[0]:
        connection.execute(_RETIRE)
        connection.execute(_ADOPT, {"fingerprint": fingerprints[0]})


def entries_under_previous_key(connection: Connection, keys: SuppressionKeys) -> int:
    """Return the number of entries that only the previous key recognizes; 0 without one."""
    if keys.previous is None:
        return 0
    values = {"fingerprint": key_fingerprint(keys.previous)}
    return int(connection.scalar(_COUNT, values) or 0)
