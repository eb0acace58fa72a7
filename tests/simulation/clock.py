"""Virtual time, the same for the runs, the sandbox and PostgreSQL.

The schema `sim` has its own `now()` and `clock_timestamp()`. It comes before `pg_catalog` in the
search path, also while the migrations run, so that defaults of columns and functions use it.
"""

from datetime import UTC, datetime, time
from typing import Final

from sqlalchemy import Connection, make_url, text

from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade
from tests.simulation.company import FIRST_DAY

STARTED_AT: Final = datetime.combine(FIRST_DAY, time(8), UTC).timestamp()

_OPTIONS = "-c search_path=sim,pg_catalog,public -c timezone=UTC"

# As in reality, two transactions never have the same time.
_SCHEMA = """
create schema sim;
create unlogged table sim.clock (now timestamptz not null, since_xid bigint not null);
insert into sim.clock values ('epoch', 0);
create sequence sim.tick;
create function sim.now() returns timestamptz language sql volatile as $$
    select now + (pg_current_xact_id()::text::bigint - since_xid) * interval '1 microsecond'
    from sim.clock
$$;
create function sim.clock_timestamp() returns timestamptz language sql volatile as $$
    select sim.now() + pg_catalog.nextval('sim.tick') * interval '0.001 microsecond'
$$;
"""

# Functions of the migrations that fix their own search path.
_FUNCTIONS = """
select format('alter function %s set search_path = sim, pg_catalog, pg_temp', oid::regprocedure)
from pg_proc where pronamespace = 'mm'::regnamespace and proconfig::text like '%search_path%'
"""

_SET = text("""
update sim.clock set now = to_timestamp(:now), since_xid = pg_current_xact_id()::text::bigint
""")


def prepare(server_url: str) -> Database:
    """A migrated database on virtual time."""
    plain = Database(server_url)
    with plain.transaction() as connection:
        connection.execute(text(_SCHEMA))
    plain.dispose()
    virtual = make_url(server_url).update_query_dict({"options": _OPTIONS})
    database = Database(virtual.render_as_string(hide_password=False))
    upgrade(database)
    with database.transaction() as connection:
        for (statement,) in connection.execute(text(_FUNCTIONS)).all():
            connection.execute(text(statement))
    return database


class Clock:
    """The time of a story, in unix seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now = STARTED_AT
        self._set()

    @property
    def elapsed(self) -> float:
        """Seconds since the story began."""
        return self.now - STARTED_AT

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self._set()

    def advance_to(self, elapsed: float) -> None:
        """Let time pass until so many seconds since the story began."""
        self.advance(max(0.0, elapsed - self.elapsed))

    def _set(self) -> None:
        with self._database.transaction() as connection:
            connection.execute(_SET, {"now": self.now})


def empty(connection: Connection) -> None:
    """Delete all rows of all tables of `mm`."""
    tables = connection.scalars(
        text("select format('mm.%I', tablename) from pg_tables where schemaname = 'mm'")
    ).all()
    kept = [table for table in tables if "alembic" not in table]
    connection.execute(text(f"truncate {', '.join(kept)} restart identity cascade"))
