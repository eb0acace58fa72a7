"""Files that are published whole, for their owner alone."""

import stat
from pathlib import Path

from mm_pipelines.storage import Storage


def test_what_is_stored_of_people_is_closed_to_other_users(tmp_path: Path) -> None:
    Storage(str(tmp_path / "storage")).publish("hashed", ".txt", lambda file: file.touch())
    assert stat.S_IMODE((tmp_path / "storage").stat().st_mode) == 0o700


def test_the_same_content_is_published_once_at_the_same_address(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    first = storage.publish("hashed", ".txt", lambda file: file.touch())
    again = storage.publish("hashed", ".txt", lambda file: file.touch())
    assert again == first
    assert [path for path, _ in storage.files("hashed")] == [first.path]
