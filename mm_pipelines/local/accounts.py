"""The account that the embedded server runs under.

PostgreSQL refuses to run as root, and a container or a fresh virtual machine often has no other
user. So as root the server's processes drop to an unprivileged account. Whether that account can
reach a directory is tried as that account, because only the kernel knows every mode bit, ACL and
mount option.
"""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# `postgres` exists where the system's PostgreSQL is installed; `nobody` exists on every system.
_UNPRIVILEGED = ("postgres", "nobody")

# The caller's locale, time zone and PG* variables must not change what the server does.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class ProgramResult:
    """How a program ended: its exit status, and what it wrote to both outputs."""

    status: int
    output: str


@dataclass(frozen=True)
class Account:
    """A user id and group id to run programs under; `dropped` when this process is root."""

    uid: int
    gid: int
    dropped: bool

    @classmethod
    def current(cls) -> Self:
        """The account of this process."""
        return cls(os.geteuid(), os.getegid(), dropped=False)

    @classmethod
    def for_server(cls, owner: int | None) -> Self:
        """The account for a server whose data directory belongs to `owner` (None: a new one).

        Raises:
            LookupError: This process is root and the system has no unprivileged account.
        """
        if os.geteuid() != 0:
            return cls.current()
        if owner:
            return cls(owner, _primary_group(owner), dropped=True)
        for name in _UNPRIVILEGED:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid, dropped=True)
        raise LookupError(f"none of the accounts {', '.join(_UNPRIVILEGED)} exists")

    def run(
        self, arguments: Sequence[str | Path], directory: Path, seconds: float
    ) -> ProgramResult:
        """Run a program under this account, in `directory`, for at most `seconds`.

        The output goes through a file: a server started by the program inherits its outputs, and
        reading a pipe would then wait until the server ends.
        """
        with tempfile.TemporaryFile() as output:
            try:
                status = subprocess.run(
                    [os.fspath(argument) for argument in arguments],
                    cwd=directory,
                    env=_ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                    check=False,
                    user=self.uid if self.dropped else None,
                    group=self.gid if self.dropped else None,
                    extra_groups=[] if self.dropped else None,
                ).returncode
            except subprocess.TimeoutExpired:
                return ProgramResult(-1, f"did not finish within {seconds:.0f} s")
            except OSError as error:
                return ProgramResult(-1, error.strerror or type(error).__name__)
            output.seek(0)
            return ProgramResult(status, output.read().decode(errors="replace").strip())

    def can_enter(self, directory: Path) -> bool:
        """Whether this account reaches the directory through all of its parents."""
        if not self.dropped:
            return os.access(directory, os.X_OK)
        return self.run(["/bin/sh", "-c", 'cd -- "$0"', directory], Path("/"), 10).status == 0

    def can_run(self, program: Path) -> bool:
        """Whether this account can execute the program; `--version` is tried."""
        return self.run([program, "--version"], Path("/"), 10).status == 0

    def make_private(self, directory: Path) -> None:
        """Create the directory, owned by this account and closed to all others.

        Raises:
            OSError: The file system refuses.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.dropped:
            os.chown(directory, self.uid, self.gid)
        directory.chmod(0o700)


def _primary_group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid
