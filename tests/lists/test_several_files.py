"""A list in several files is read as one."""

import hashlib
from datetime import date
from pathlib import Path

import fsspec
import polars as pl
import pytest

from mm_pipelines.lists import (
    CustomerList,
    FileSource,
    ListChangedError,
    ListHeaderError,
    ListMissingError,
    ListRowError,
    inspect_list,
    list_files,
    list_url,
    stat_list,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "2026-11-20"
    folder.mkdir()
    (folder / "part-1.csv").write_text("email,phone\nd@b.co,\n", encoding="utf-8")
    (folder / "part-0.csv").write_text("email,phone\na@b.co,\nb@b.co,\n", encoding="utf-8")
    pl.DataFrame({"phone": ["1"], "email": ["c@b.co"]}).write_parquet(folder / "part-2.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.csv.crc").write_bytes(b"crc")
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part-3.csv").write_text("email\n", encoding="utf-8")
    return folder


def rows_of(url: str) -> list[tuple[int, str]]:
    frames = CustomerList(url).chunks()
    return [row for frame in frames for row in frame.select("row_number", "EMAIL").iter_rows()]


def test_a_folders_files_are_one_list_with_running_row_numbers(folder: Path) -> None:
    assert rows_of(str(folder)) == [(1, "a@b.co"), (2, "b@b.co"), (3, "d@b.co"), (4, "c@b.co")]
    report = inspect_list(FileSource(str(folder)))
    assert report.rows == 4
    assert [(file.name, file.rows_before, file.rows) for file in report.files] == [
        ("part-0.csv", 0, 2),
        ("part-1.csv", 2, 1),
        ("part-2.parquet", 3, 1),
    ]


def test_a_glob_selects_files(folder: Path) -> None:
    assert rows_of(str(folder / "*.csv")) == [(1, "a@b.co"), (2, "b@b.co"), (3, "d@b.co")]
    assert rows_of(str(folder.parent / "*" / "part-2.*")) == [(1, "c@b.co")]


def test_every_file_of_an_object_store_is_found(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("part-0.csv", "part-1.csv", "_SUCCESS"):
        memory.pipe(f"/several/{name}", (folder / name).read_bytes())
    for url in ("memory://several", "memory://several/*.csv"):
        assert rows_of(url) == [(1, "a@b.co"), (2, "b@b.co"), (3, "d@b.co")]
    assert inspect_list(FileSource("memory://several")).fingerprint == (
        inspect_list(FileSource(str(folder / "*.csv"))).fingerprint
    )


def test_a_file_of_exactly_that_name_comes_first(tmp_path: Path) -> None:
    for name, email in (("l[1].csv", "a@b.co"), ("l1.csv", "b@b.co")):
        (tmp_path / name).write_text(f"email\n{email}\n", encoding="utf-8")
    assert rows_of(str(tmp_path / "l[1].csv")) == [(1, "a@b.co")]


@pytest.mark.parametrize("name", ["a[1]*", "_b", ".c"])
def test_the_folder_of_mm_yaml_is_never_read_as_a_glob(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    (directory / "acme").mkdir(parents=True)
    (directory / "acme" / "2026-11-20_0.csv").write_text("email\na@b.co\n", encoding="utf-8")
    (tmp_path / "a1x" / "acme").mkdir(parents=True)
    (tmp_path / "a1x" / "acme" / "2026-11-20_0.csv").write_text("email\nx@b.co\n", encoding="utf-8")
    url = list_url("{audience}/{day}*.csv", directory, audience="acme", day=date(2026, 11, 20))
    assert rows_of(url) == [(1, "a@b.co")]


def test_one_file_keeps_its_digest_and_several_have_one_over_names_and_digests(
    folder: Path,
) -> None:
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("part-0.csv", "part-1.csv")
    ]
    assert inspect_list(FileSource(str(folder / "*-0.csv"))).fingerprint == digests[0]
    several = inspect_list(FileSource(str(folder / "*.csv"))).fingerprint
    (folder / "part-1.csv").rename(folder / "part-9.csv")
    renamed = inspect_list(FileSource(str(folder / "*.csv"))).fingerprint
    assert len({several, renamed, *digests}) == 4


def test_the_stat_changes_with_any_file(folder: Path) -> None:
    marks = {stat_list(str(folder)).mark}  # type: ignore[union-attr]
    (folder / "part-1.csv").write_text("email,phone\ne@b.co,\n", encoding="utf-8")
    marks.add(stat_list(str(folder)).mark)  # type: ignore[union-attr]
    (folder / "part-1.csv").rename(folder / "part-9.csv")
    marks.add(stat_list(str(folder)).mark)  # type: ignore[union-attr]
    (folder / "_SUCCESS").write_bytes(b"again")
    marks.add(stat_list(str(folder)).mark)  # type: ignore[union-attr]
    assert len(marks) == 3


def test_a_folder_or_glob_without_files_is_a_missing_list(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    for url in (str(tmp_path), str(tmp_path / "*.csv"), "memory://nothing/*.csv"):
        assert list_files(url) == ()
        assert stat_list(url) is None
        with pytest.raises(ListMissingError):
            inspect_list(FileSource(url))


def test_a_broken_row_is_named_with_its_file_and_its_number_there(folder: Path) -> None:
    (folder / "part-1.csv").write_text("email,phone\nd@b.co\n", encoding="utf-8")
    with pytest.raises(ListRowError, match=r"part-1\.csv: row 1: 1 field where") as caught:
        inspect_list(FileSource(str(folder)))
    assert caught.value.file == str(folder / "part-1.csv")


@pytest.mark.parametrize(
    "content",
    ["email\nd@b.co\n", "email,phone,fn\nd@b.co,,\n", "email,phone,consent\nd@b.co,,no\n"],
)
def test_files_with_different_columns_are_refused(folder: Path, content: str) -> None:
    (folder / "part-1.csv").write_text(content, encoding="utf-8")
    with pytest.raises(ListHeaderError, match=r"part-1\.csv: header: .* those of part-0\.csv"):
        inspect_list(FileSource(str(folder)))


def test_a_file_added_while_the_list_is_read_is_noticed(folder: Path) -> None:
    chunks = CustomerList(str(folder)).chunks()
    next(chunks)
    (folder / "part-2.csv").write_text("email,phone\ne@b.co,\n", encoding="utf-8")
    with pytest.raises(ListChangedError, match="a file was added or removed"):
        list(chunks)


def test_columns_may_be_in_another_order_in_each_file(folder: Path) -> None:
    (folder / "part-1.csv").write_text("phone,email\n1,d@b.co\n", encoding="utf-8")
    assert rows_of(str(folder))[2] == (3, "d@b.co")
