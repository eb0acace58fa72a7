import os
import tempfile
from pathlib import Path

import pytest

from mm_pipelines.local.accounts import Account
from mm_pipelines.local.socket_paths import ForeignDirectoryError, short_directory


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_short_directory_is_private_and_always_the_same(temporary: Path) -> None:
    long = Path("/" + "long/" * 40)
    short = short_directory(long, Account.current())
    assert short.parent == temporary
    assert short.stat().st_mode & 0o777 == 0o700
    assert short_directory(long, Account.current()) == short


def test_a_link_in_its_place_is_refused(temporary: Path) -> None:
    short = short_directory(Path("/home"), Account.current())
    short.rmdir()
    short.symlink_to(temporary)
    with pytest.raises(ForeignDirectoryError, match="belongs to another user"):
        short_directory(Path("/home"), Account.current())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to create another user's directory")
def test_another_users_directory_is_refused(temporary: Path) -> None:
    short = short_directory(Path("/home"), Account.current())
    os.chown(short, 65534, 65534)
    with pytest.raises(ForeignDirectoryError, match="belongs to another user"):
        short_directory(Path("/home"), Account.current())
