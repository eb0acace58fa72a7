"""Back up and restore the schemas `mm` and `dagster` with PostgreSQL's own programs."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import psycopg2
from psycopg2 import errorcodes, extensions

from mm_pipelines.local.postgres.binaries import find_clients
from mm_pipelines.local.postgres.errors import DumpError

_SERVICE = "mm"
_CONNECT = f"--dbname=service={_SERVICE}"
_MAGIC = b"PGDMP"
_BLOCK_BYTES = 1 << 20
_SESSIONS_END_SECONDS = 5.0

# True where one of our schemas exists.
_HAS_SCHEMAS = "select exists (select from pg_namespace where nspname in ('mm', 'dagster'))"

# The number of sessions of other clients in this database. Other roles' sessions have no type here.
_OTHER_SESSIONS = """
select count(*) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
  and coalesce(backend_type, 'client backend') = 'client backend'
"""

_BEGIN = b"set client_min_messages = error;\nbegin;\ndrop schema if exists mm, dagster cascade;\n"
# A dump contains no statistics, and the first runs should not plan without them.
_COMMIT = b"\nanalyze;\ncommit;\n"


def backup(url: str, file: Path, setting: Path | None) -> None:
    """Write both schemas to a file of PostgreSQL's custom format, readable by its owner alone.

    The database may be in use: the file contains one consistent snapshot.

    Args:
        url: The `postgresql://` URL.
        file: The file to create.
        setting: MM_POSTGRES_BIN, if set.

    Raises:
        DumpError: The file exists already, or pg_dump is missing or fails.
    """
    if file.exists():
        raise DumpError(f"{file} exists already: choose another name")
    clients = _require_clients(url, setting)
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    command: list[str | Path] = [
        clients / "pg_dump",
        f"--dbname=service={_SERVICE}",
        "--format=custom",
    ]
    command += ["--schema=mm", "--schema=dagster", "--no-owner", "--no-privileges"]
    # Not to its standard output, which pg_dump opens for appending: the table of contents would be
    # written twice, without positions.
    command += [f"--file={partial}"]
    try:
        partial.touch(mode=0o600)
        with _service(url) as variables:
            done = subprocess.run(command, env=variables, capture_output=True, check=False)
        if done.returncode != 0:
            raise DumpError(f"pg_dump failed: {done.stderr.decode(errors='replace').strip()}")
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def require_dump(file: Path) -> None:
    """Check that the file can be read and has the format of `backup`.

    Raises:
        DumpError: It cannot, or has not.
    """
    try:
        with file.open("rb") as content:
            is_dump = content.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise DumpError(f"{file} cannot be read: {error.strerror}") from None
    if not is_dump:
        raise DumpError(f"{file} was not written by `mm db backup`")


def restore(url: str, file: Path, setting: Path | None, *, replace: bool) -> None:
    """Restore both schemas from a file of `backup`, in one transaction.

    Args:
        url: The `postgresql://` URL.
        file: The file that `backup` wrote.
        setting: MM_POSTGRES_BIN, if set.
        replace: Replace the schemas if they exist.

    Raises:
        DumpError: Other sessions use the database, it has the schemas and `replace` is False, or a
            program is missing or fails. The database is unchanged.
    """
    require_dump(file)
    _require_replaceable(url, replace=replace)
    clients = _require_clients(url, setting)
    read: list[str | Path] = [
        clients / "pg_restore",
        "--file=-",
        "--no-owner",
        "--no-privileges",
        file,
    ]
    execute: list[str | Path] = [
        clients / "psql",
        f"--dbname=service={_SERVICE}",
        "--no-psqlrc",
        "--quiet",
    ]
    # An error's full text may quote a row, its code does not.
    execute += ["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=sqlstate", "--file=-"]
    with (
        _service(url) as variables,
        tempfile.TemporaryFile() as read_errors,
        tempfile.TemporaryFile() as execute_errors,
        subprocess.Popen(read, stdout=subprocess.PIPE, stderr=read_errors) as reader,
        subprocess.Popen(
            execute,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=execute_errors,
        ) as executor,
    ):
        # pg_restore's own --single-transaction could not first drop what the dump does not know.
        _transfer(reader, executor)
        if executor.wait() != 0:
            raise DumpError(f"psql failed: {_explain(_written(execute_errors))}")
        if reader.wait() != 0:
            raise DumpError(f"pg_restore cannot read {file}: {_written(read_errors)}")


def _transfer(reader: subprocess.Popen[bytes], executor: subprocess.Popen[bytes]) -> None:
    """Pass the script on, and commit only after the whole of it.

    Where the script or this process ends early, psql ends without a commit: PostgreSQL rolls back.
    """
    assert reader.stdout is not None  # noqa: S101 - both are pipes
    assert executor.stdin is not None  # noqa: S101
    # A broken pipe means that psql has ended; its exit status is checked by the caller.
    with contextlib.suppress(BrokenPipeError), reader.stdout, executor.stdin as script:
        script.write(_BEGIN)
        shutil.copyfileobj(reader.stdout, script, _BLOCK_BYTES)
        if reader.wait() == 0:
            script.write(_COMMIT)


def _require_replaceable(url: str, *, replace: bool) -> None:
    """Check that only this process uses the database, and that the schemas may be replaced."""
    deadline = time.monotonic() + _SESSIONS_END_SECONDS
    with _connect(url) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_HAS_SCHEMAS)
            if cursor.fetchone() == (True,) and not replace:
                raise DumpError(
                    "the database is not empty: add --replace to drop its schemas mm and dagster"
                )
            # A closed session takes a moment to end.
            while True:
                cursor.execute(_OTHER_SESSIONS)
                (sessions,) = cursor.fetchone() or (0,)
                if not sessions:
                    return
                if time.monotonic() > deadline:
                    raise DumpError(
                        f"the database is in use by {sessions} other sessions: stop Dagster, the "
                        "receivers and every other client, then restore again"
                    )
                time.sleep(0.05)


def _require_clients(url: str, setting: Path | None) -> Path:
    with _connect(url) as connection:
        major = str(connection.info.server_version // 10_000)
    clients = find_clients(major, setting)
    if clients is None:
        raise DumpError(
            f"the server is PostgreSQL {major}, and its pg_dump, pg_restore and psql are not "
            f"installed: install the client programs of PostgreSQL {major}, or set MM_POSTGRES_BIN "
            "to their directory"
        )
    return clients


@contextlib.contextmanager
def _connect(url: str) -> Iterator[extensions.connection]:
    try:
        opened = psycopg2.connect(url)
    except psycopg2.OperationalError as error:
        raise DumpError(f"the database does not answer: {str(error).strip()}") from None
    with contextlib.closing(opened):
        yield opened


@contextlib.contextmanager
def _service(url: str) -> Iterator[dict[str, str]]:
    """The environment for PostgreSQL's programs; a URL among their arguments would show in `ps`."""
    with tempfile.NamedTemporaryFile("w", prefix="mm-pg-service-") as file:  # mode 0600
        settings = "".join(f"{name}={value}\n" for name, value in extensions.parse_dsn(url).items())
        file.write(f"[{_SERVICE}]\n{settings}")
        file.flush()
        yield {**os.environ, "PGSERVICEFILE": file.name}


def _written(errors: BinaryIO) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()


def _explain(output: str) -> str:
    """Add the name to an error code of PostgreSQL: `psql:<stdin>:9: ERROR:  42501`."""
    code = output.rpartition(" ")[2]
    with contextlib.suppress(KeyError):
        return f"{output} ({errorcodes.lookup(code).lower().replace('_', ' ')})"
    return output
