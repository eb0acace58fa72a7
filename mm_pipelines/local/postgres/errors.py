"""Errors of the embedded PostgreSQL."""

from mm_pipelines.local.errors import LocalError


class PostgresError(LocalError):
    """The embedded PostgreSQL cannot be used; the message says what to do."""


class PostgresLockedError(PostgresError):
    """Another process has been starting or stopping the same server for too long."""


class PostgresStartError(PostgresError):
    """The server cannot be created or started."""


class PostgresVersionError(PostgresStartError):
    """The data files were written by another major version of PostgreSQL."""


class PostgresNotStartedError(PostgresError):
    """The server of this MM_HOME was never started, so it has no address yet."""


class DumpError(PostgresError):
    """A database cannot be backed up or restored; it is unchanged."""
