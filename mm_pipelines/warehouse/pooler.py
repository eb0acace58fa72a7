"""Refuses a pooler that gives the transactions of one client to different sessions.

Advisory locks belong to a session of PostgreSQL. Behind pgbouncer with ``pool_mode = transaction``
a lock seems to be taken and holds nothing, so two runs could send the same people.
"""

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

_TRIALS = 3
_BACKEND = text("select pg_backend_pid()")

_ADVICE = (
    "Point MM_DATABASE_URL at PostgreSQL itself, or at a pooler with session pooling (pgbouncer: "
    "pool_mode = session and ignore_startup_parameters = options)."
)


class PoolerError(Exception):
    """A pooler lies between here and PostgreSQL, and locks do not hold through it."""


def require_own_session(engine: Engine) -> None:
    """Check that all transactions of a connection are in one session of PostgreSQL.

    A pooler gives the session that one connection just returned to the next that asks.

    Raises:
        PoolerError: They are not, or the pooler refuses our settings of a session.
    """
    try:
        with engine.connect() as ours, engine.connect() as other:
            for _ in range(_TRIALS):
                session = _session(ours)
                with other.begin():
                    shared = other.scalar(_BACKEND) == session
                    if shared or _session(ours) != session:
                        raise PoolerError(
                            "A pooler with transaction pooling lies before PostgreSQL: the locks "
                            f"of runs do not hold through it. {_ADVICE}"
                        )
    except OperationalError as error:
        if "unsupported startup parameter" not in str(error):
            raise
        raise PoolerError(
            "The pooler before PostgreSQL refuses the settings of a session (options), and perhaps "
            f"does not keep sessions. {_ADVICE}"
        ) from None


def _session(connection: Connection) -> int:
    with connection.begin():
        return int(connection.scalar(_BACKEND) or 0)
