"""Advisory locks by name: their keys, and which of them are held."""

import hashlib
from collections.abc import Collection

from sqlalchemy import Connection, text

# Returns those of the keys whose advisory lock a session holds.
_HELD = text("""
select distinct wanted.key
from unnest(cast(:keys as bigint[])) as wanted (key)
join pg_locks as lock
  on lock.locktype = 'advisory' and lock.granted and lock.objsubid = 1
 and (cast(lock.classid as bigint) << 32 | cast(lock.objid as bigint)) = wanted.key
where lock.database = (select oid from pg_database where datname = current_database())
""")


def lock_key(name: str) -> int:
    """The key of a lock in PostgreSQL, a signed number of 64 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def run_lock(run_id: str) -> str:
    """The lock that a run of Dagster holds while its process lives."""
    return f"run:{run_id}"


def held_locks(connection: Connection, names: Collection[str]) -> set[str]:
    """Those of the locks that a session holds now; no lock is taken."""
    by_key = {lock_key(name): name for name in names}
    return {by_key[key] for key in connection.scalars(_HELD, {"keys": list(by_key)})}
