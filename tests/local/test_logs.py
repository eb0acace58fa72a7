"""Logs are rotated while they are written."""

import subprocess
import sys
from pathlib import Path

from mm_pipelines.local.logs import LOG_BYTES, rotate

WRITER = """
import sys
for line in sys.stdin:
    sys.stdout.write(line)
    sys.stdout.flush()
    sys.stderr.write("x")
    sys.stderr.flush()
"""


def test_a_process_goes_on_writing_to_the_emptied_file(tmp_path: Path) -> None:
    log = tmp_path / "receiver.log"
    log.write_bytes(b"o" * (LOG_BYTES + 1))
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
        ) as writer,
    ):
        assert writer.stdin is not None
        assert writer.stderr is not None
        writer.stdin.write(b"before\n")
        writer.stdin.flush()
        writer.stderr.read(1)
        rotate(log)
        writer.stdin.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert (tmp_path / "receiver.log.1").read_bytes().endswith(b"obefore\n")


def test_a_small_log_and_a_missing_one_stay_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "receiver.log"
    rotate(log)
    log.write_text("kept")
    rotate(log)
    assert [path.name for path in tmp_path.iterdir()] == ["receiver.log"]
    assert log.read_text() == "kept"
