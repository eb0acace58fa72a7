"""Ends sessions of PostgreSQL as a restart, a failover or an administrator does."""

from sqlalchemy import text

from mm_pipelines.warehouse.database import Database

_END = text("""
select pg_terminate_backend(pid, 5000) from pg_locks
where locktype = 'advisory'
  and database = (select oid from pg_database where datname = current_database())
""")


def end_the_locks_session(database: Database) -> None:
    """End the one session that holds an advisory lock, and wait until it has ended."""
    with database.transaction() as connection:
        assert connection.scalars(_END).all() == [True]
