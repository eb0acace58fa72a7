"""Files published whole, and addresses fit to be shown."""

import gc
import hashlib
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
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


@pytest.mark.parametrize("base", ["local", "memory", "s3"])
def test_a_file_is_written_and_read_in_the_same_storage(
    base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = {"local": str(tmp_path / "storage"), "memory": f"memory://{tmp_path.name}/storage"}.get(
        base
    ) or request.getfixturevalue("s3_url")
    storage = Storage(url)
    frame = pl.DataFrame({"EMAIL": ["a", "b"], "row_number": [1, 2]})

    published = storage.publish("deltas/1", ".parquet", frame.write_parquet)
    assert storage.publish("deltas/1", ".parquet", frame.write_parquet) == published
    assert storage.scan(published.path).collect().equals(frame)
    assert storage.local(published.path).parts[-2:] == ("1", Path(published.path).name)
    digest = hashlib.sha256(storage.read(published.path)).hexdigest()
    assert published.path == f"deltas/1/{digest}.parquet"

    for content in (b"1", b"2"):
        (tmp_path / "latest").write_bytes(content)
        storage.replace("latest.json", lambda path: shutil.copyfile(tmp_path / "latest", path))
    assert storage.read("latest.json") == b"2"

    ((path, modified_at),) = storage.files("deltas")
    assert path == published.path
    assert abs(datetime.now(UTC) - modified_at) < timedelta(minutes=1)
    storage.delete(path)
    storage.delete(path)
    assert not storage.exists(path)


def test_copies_of_remote_files_do_not_outlive_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_HOME", str(tmp_path))
    storage = Storage(f"memory://{tmp_path.name}/storage")
    frame = pl.DataFrame({"EMAIL": ["a"]})
    published = storage.publish("deltas", ".parquet", frame.write_parquet)
    assert list(tmp_path.rglob("*.parquet")) == []
    storage.scan(published.path)
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    del storage
    gc.collect()
    assert list(tmp_path.iterdir()) == []
