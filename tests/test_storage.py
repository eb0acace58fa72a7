"""Files published whole, and addresses fit to be shown."""

import hashlib
import random
from pathlib import Path

import pytest

from mm_pipelines.lists import ListMissingError
from mm_pipelines.storage import Storage, without_credentials


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://user:pw@host/lists/a.csv", "ftp://host/lists/a.csv"),
        ("https://host/a.csv?X-Amz-Signature=abc&x=1", "https://host/a.csv"),
        ("simplecache::sftp://me:p-w@host/a.csv", "simplecache::sftp://host/a.csv"),
        ("s3://bucket/people@home/a.csv", "s3://bucket/people@home/a.csv"),
        ("/data/me@home/what?.csv", "/data/me@home/what?.csv"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_a_lists_error_does_not_name_its_password() -> None:
    error = ListMissingError("ftp://user:hunter2@host/a.csv", "", "there is no such file")
    assert str(error) == "ftp://host/a.csv: there is no such file"
    assert "hunter2" not in error.file


def test_a_write_that_fails_leaves_no_file(storage: Storage) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        storage.publish("deltas/1", ".parquet", fail)
    assert list(storage.files("deltas")) == []
    assert list(Path(storage.url("")).iterdir()) == []


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
@pytest.mark.parametrize("moved", [False, True])
def test_a_file_has_the_digest_of_its_bytes_for_its_name(
    storage: Storage, tmp_path: Path, size: int, moved: bool
) -> None:
    content = random.Random(size).randbytes(size)

    def write(path: Path) -> None:
        if moved:
            elsewhere = tmp_path / "elsewhere"
            elsewhere.write_bytes(content)
            elsewhere.replace(path)
        else:
            with path.open("wb") as file:
                for start in range(0, size, 100_000):
                    file.write(content[start : start + 100_000])

    published = storage.publish("payloads", ".parquet", write)
    assert published.sha256 == hashlib.sha256(content).hexdigest()
    assert Path(storage.url(published.path)).read_bytes() == content
