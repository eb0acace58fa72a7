"""Unix sockets whose path would be too long: a short, private directory for them."""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from mm_pipelines.local.accounts import Account
from mm_pipelines.local.errors import LocalError

# A socket's whole path must fit into sockaddr_un: 108 bytes on Linux with the final NUL.
SOCKET_PATH_BYTES = 107


class ForeignDirectoryError(LocalError):
    """A directory that we would use belongs to another user."""


def fits(socket: Path) -> bool:
    """Whether the path is short enough for a Unix socket."""
    return len(os.fsencode(socket)) <= SOCKET_PATH_BYTES


def short_directory(directory: Path, account: Account) -> Path:
    """A private directory with a short path that replaces `directory` for sockets.

    It is always the same for the same `directory`.

    Raises:
        ForeignDirectoryError: Another user owns the directory or it is a symbolic link.
    """
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"mm-{digest}"
    # Everyone may write to the temporary directory: the owner of `short` could listen on the socket
    # in our place and receive our connections.
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (account.uid, os.geteuid()):
        raise ForeignDirectoryError(
            f"{short} belongs to another user: set MM_HOME to a shorter path, so that it is not "
            "needed"
        )
    account.make_private(short)
    return short
