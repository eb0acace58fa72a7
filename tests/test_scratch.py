"""Scratch folders do not outlive their process for long."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mm_pipelines.scratch import ScratchFolder

KEEP_A_FOLDER = """
import sys, time
from pathlib import Path
from mm_pipelines.scratch import ScratchFolder
folder = ScratchFolder()
(folder.path / "hashes").write_bytes(b"x")
print(folder.path, flush=True)
time.sleep(600)
"""


def test_a_killed_process_leaves_no_scratch_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_HOME", str(tmp_path / "home"))
    with subprocess.Popen(
        [sys.executable, "-c", KEEP_A_FOLDER], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with ScratchFolder() as mine:
            assert left.parent == mine.path.parent == tmp_path / "home"
            assert left.exists(), "its process is alive"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert left.exists()

    with ScratchFolder() as mine:
        assert not left.exists()
        assert mine.path.exists()
    assert not mine.path.exists()


def test_only_its_user_can_read_a_scratch_folder(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path) as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
