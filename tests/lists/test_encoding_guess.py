"""Names are read in the right encoding, or not at all."""

import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from mm_pipelines.lists import CustomerList, FileSource, inspect_list

NAMES_FILE = Path(__file__).with_name("names.tsv")


def _languages() -> Iterator[tuple[str, str, list[str]]]:
    for line in NAMES_FILE.read_text(encoding="utf-8").splitlines()[1:]:
        language, encodings, names = line.split("\t")
        for encoding in encodings.split():
            yield language, encoding, names.split(",")


LANGUAGES = list(_languages())
IDS = [f"{language} {encoding}" for language, encoding, _ in LANGUAGES]


def read(path: Path, names: list[str], encoding: str, *, plain_rows: int = 0) -> list[str]:
    """The names as they are read from a list in that encoding."""
    rows = "".join(f"p{number}@example.com,{name}\n" for number, name in enumerate(names))
    content = "email,fn\n" + "plain@example.com,Ann\n" * plain_rows + rows
    path.write_bytes(content.encode(encoding))
    frame = pl.concat(CustomerList(str(path)).chunks())
    assert frame.height == plain_rows + len(names)
    return frame["FN"].to_list()[plain_rows:]


@pytest.mark.parametrize(("language", "encoding", "names"), LANGUAGES, ids=IDS)
def test_the_names_of_a_long_list_are_right(
    tmp_path: Path, language: str, encoding: str, names: list[str]
) -> None:
    assert read(tmp_path / "l.csv", names, encoding) == names


@pytest.mark.parametrize(("language", "encoding", "names"), LANGUAGES, ids=IDS)
def test_the_names_of_a_short_list_are_right_or_unread(
    tmp_path: Path, language: str, encoding: str, names: list[str]
) -> None:
    draw = random.Random(language)
    wrong = 0
    for size in [1, 2, 3, 5, 9, 15, 20, 25, 30, 40] * 2:
        drawn = draw.sample(names, size)
        wrong += read(tmp_path / "l.csv", drawn, encoding) not in (drawn, [""] * size)
    assert wrong == 0


def test_names_behind_many_blocks_of_ascii_are_right(tmp_path: Path) -> None:
    names = next(names for language, _, names in LANGUAGES if language == "cs")
    assert read(tmp_path / "l.csv", names, "cp1250", plain_rows=200_000) == names


def test_letters_that_all_encodings_share_need_no_further_evidence(tmp_path: Path) -> None:
    assert read(tmp_path / "l.csv", ["Müller"], "cp1250") == ["Müller"]
    assert read(tmp_path / "l.csv", ["José"], "cp1252") == ["José"]


def test_an_uncertain_encoding_blanks_the_names_and_keeps_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes("email,fn,ln\na@b.co,Dvořák,Novák\n".encode("cp1250"))
    report = inspect_list(FileSource(str(path)))
    assert report.rows_with_identifier == report.rows == 1
    assert report.unread_names == ("FN", "LN")
    assert report.filled["FN"] == 0
    assert 0 < report.encoding_confidence < 0.85


def test_the_names_of_an_encoding_that_is_not_recognized_are_unread(tmp_path: Path) -> None:
    names = next(names for language, _, names in LANGUAGES if language == "ru")
    assert set(read(tmp_path / "l.csv", names, "koi8-r")) == {""}
    report = inspect_list(FileSource(str(tmp_path / "l.csv")))
    assert report.encoding in ("koi8-r", "koi8-u")
    assert report.encoding_confidence == 0


def test_a_cut_character_at_the_end_of_a_block_does_not_decide(tmp_path: Path) -> None:
    head = b"email,fn\n"
    row = b"mary@example.com,Ann\n"
    rows = row * (((1 << 20) - len(head)) // len(row))
    filler = (1 << 20) - len(head) - len(rows) - len(b"a@b.co,Zo") - 1
    path = tmp_path / "l.csv"
    path.write_bytes(head + rows + b"\n" * filler + "a@b.co,Zoë\n".encode())
    frame = pl.concat(CustomerList(str(path)).chunks())
    assert frame["FN"].to_list()[-1] == "Zoë"


def test_a_last_byte_without_line_end_is_read_with_its_word(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(b"email,fn\na@b.co,Jos\xe9")
    assert pl.concat(CustomerList(str(path)).chunks())["FN"].to_list() == ["José"]
