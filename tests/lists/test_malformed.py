"""Lists that cannot be used, each with the error that a person must be able to act upon."""

import csv
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mm_pipelines.lists import (
    CustomerList,
    FileSource,
    ListError,
    ListHeaderError,
    ListMissingError,
    ListRowError,
    ListUnreadableError,
    inspect_list,
)

HEADER = b"Email,Phone,First Name\n"
GOOD = b"mary@example.com,+16505551212,Mary\n"


@dataclass(frozen=True)
class Malformed:
    """A list's bytes and the error they must give, as (class, place, fault)."""

    name: str
    content: bytes
    error: type[ListError]
    place: str
    fault: str
    columns: dict[str, str] | None = None

    @property
    def id(self) -> str:
        return f"{self.name} {self.fault[:40]} {self.place}"


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _many(broken: bytes, before: int) -> bytes:
    return HEADER + GOOD * before + broken + GOOD * 50


PEOPLE = pl.DataFrame({"email": ["mary@example.com"] * 3})
PACKED = gzip.compress(HEADER + GOOD * 500, mtime=0)
ENDINGS = "the file's ending is none of .csv, .tsv, .txt, .ndjson (each also .gz) and .parquet"
EMPTY = "the list is empty; it has no header"
NO_NAMES = "the first line holds values, not column names; put a line of names above it"
LATE_BYTE = "a byte that is not UTF-8, though the list began in UTF-8; save it as UTF-8"
UNCLOSED = "a quoted field begins here and is never closed"
BEHIND_QUOTE = "there is text after a closing quote"
STRAY_QUOTES = "quotes inside unquoted fields; quote the fields and double the quotes in them"
UNKNOWN = (
    "no column is recognized as EMAIL or PHONE ({} recognized); name them in mm.yaml under "
    "source.columns, or put a line of names above the values if there is none"
)
CUT_PARQUET = "this is no Parquet file, or it is cut"
WIDE = "the text is not {} to its end; save the list as UTF-8"

CORPUS = [
    Malformed("l.csv", b"", ListUnreadableError, "", EMPTY),
    Malformed("l.tsv", b"\n\n \n", ListUnreadableError, "", EMPTY),
    Malformed("l.csv", b"\xef\xbb\xbf", ListUnreadableError, "", EMPTY),
    Malformed("l.ndjson", b"\n \n", ListUnreadableError, "", "the list is empty"),
    Malformed("l.csv.gz", gzip.compress(b""), ListUnreadableError, "", EMPTY),
    Malformed("l.csv.gz", b"", ListUnreadableError, "", EMPTY),
    Malformed("l.xlsx", b"PK\x03\x04", ListUnreadableError, "", ENDINGS),
    Malformed("l", HEADER + GOOD, ListUnreadableError, "", ENDINGS),
    Malformed("l.csv.zip", b"PK", ListUnreadableError, "", ENDINGS),
    Malformed("l.parquet.gz", b"\x1f\x8b", ListUnreadableError, "", ENDINGS),
    Malformed("l.json", b"[]", ListUnreadableError, "", ENDINGS),
    Malformed("l.csv", GOOD * 3, ListHeaderError, "header", NO_NAMES),
    Malformed("l.csv", b"name,age\nMary,3\n", ListHeaderError, "header",
              UNKNOWN.format("2 columns, none")),
    Malformed("l.csv", b"a;b\n1;2\n", ListHeaderError, "header", UNKNOWN.format("2 columns, none")),
    Malformed("l.ndjson", b'{"name": "Mary"}\n', ListHeaderError, "header",
              UNKNOWN.format("1 column, none")),
    Malformed("l.parquet", _parquet(pl.DataFrame({"name": ["x"]})), ListHeaderError, "header",
              UNKNOWN.format("1 column, none")),
    Malformed("l.csv", HEADER + GOOD, ListHeaderError, "header",
              "there is no column 'Mail', which mm.yaml names for EMAIL", {"EMAIL": "Mail"}),
    Malformed("l.csv", HEADER + GOOD, ListHeaderError, "columns",
              "'MAIL' is no schema key; the keys are EMAIL, PHONE, GEN, DOBY, DOBM, DOBD, LN, FN, "
              "FI, CT, ST, ZIP, COUNTRY, MADID, EXTERN_ID, DOB", {"MAIL": "Email"}),
    Malformed("l.csv", b"Email,Email\na@b.co,c@d.co\n", ListHeaderError, "header",
              "the list has 2 columns 'Email', which mm.yaml names for EMAIL",
              {"EMAIL": "Email"}),
    Malformed("l.csv", HEADER + GOOD, ListHeaderError, "header",
              UNKNOWN.format("3 columns, only FN"), {"FN": "First Name"}),
    Malformed("l.csv", _many(b"mary@example.com,1\n", 3), ListRowError, "row 4",
              "2 fields where the header has 3"),
    Malformed("l.csv", _many(b"mary@example.com\n", 0), ListRowError, "row 1",
              "1 field where the header has 3"),
    Malformed("l.csv", _many(b"a@b.co,1,Mary,x\n", 1203), ListRowError, "row 1,204",
              "4 fields where the header has 3"),
    Malformed("l.csv", _many(b"a@b.co,1,Mary,\n", 2), ListRowError, "row 3",
              "4 fields where the header has 3"),
    Malformed("l.csv", _many(b"a@b.co,1,Mary,\na@b.co,1\n", 2), ListRowError, "row 3",
              "4 fields where the header has 3"),
    Malformed("l.csv", _many(b"a@b.co,1\na@b.co,1,Mary,\n", 2), ListRowError, "row 3",
              "2 fields where the header has 3"),
    Malformed("l.csv", _many(b'"a@b.co","1","Mary","x"\n', 5), ListRowError, "row 6",
              "4 fields where the header has 3"),
    Malformed("l.csv", _many(b'"a@b.co","1, 2"\n', 5), ListRowError, "row 6",
              "2 fields where the header has 3"),
    Malformed("l.csv", _many(b"\n\na@b.co,1\n", 5), ListRowError, "row 6",
              "2 fields where the header has 3"),
    Malformed("l.csv", _many(b"a@b.co;1;Mary\n", 2), ListRowError, "row 3",
              "1 field where the header has 3"),
    Malformed("l.csv", _many(b'a@b.co,1,"Mary"\r\n"x@y.zz"\r\n', 2), ListRowError, "row 4",
              "1 field where the header has 3"),
    Malformed("l.tsv", b"email\tphone\na@b.co\t1\t2\n", ListRowError, "row 1",
              "3 fields where the header has 2"),
    Malformed("l.csv", _many(b'a@b.co,1,"Mary\n', 7), ListRowError, "row 8", UNCLOSED),
    Malformed("l.csv", _many(b'a@b.co,1,"Mary" Ann\n', 7), ListRowError, "row 8", BEHIND_QUOTE),
    Malformed("l.csv", _many(b'"a@b.co"x,1,Mary\n', 0), ListRowError, "row 1", BEHIND_QUOTE),
    Malformed("l.csv", _many(b'a@b.co,1""Mary, 2"\n', 7), ListRowError, "row 8", STRAY_QUOTES),
    Malformed("l.csv", _many(b'a@b.co,1" 2,Mary "B"\n', 0), ListRowError, "row 1", STRAY_QUOTES),
    Malformed("l.csv", b'"Email,Phone\n' + GOOD * 3, ListUnreadableError, "header",
              "the quotes of the first line are broken"),
    Malformed("l.csv", HEADER + "é@example.com,1,É\n".encode() * 30 + b"a@b.co,1,Val\xe9ry\n",
              ListUnreadableError, "line 32", LATE_BYTE),
    Malformed("l.txt", b"\xef\xbb\xbf" + HEADER + b"a@b.co,1,Val\xe9ry\n", ListUnreadableError,
              "line 2", LATE_BYTE),
    Malformed("l.csv", (HEADER + GOOD).decode().encode("utf-16") + b"x", ListUnreadableError, "",
              WIDE.format("utf-16-le")),
    Malformed("l.csv", b"\xfe\xff" + HEADER.decode().encode("utf-16-be") + b"\xd8\x00\x00a",
              ListUnreadableError, "", WIDE.format("utf-16-be")),
    Malformed("l.csv.gz", PACKED[:-12], ListUnreadableError, "",
              "the gzip data end too early; the file was not copied to its end"),
    Malformed("l.csv.gz", HEADER + GOOD, ListUnreadableError, "",
              "the gzip data are damaged; compress the list again"),
    Malformed("l.csv.gz", PACKED[:40] + b"\xff" * 20 + PACKED[60:], ListUnreadableError, "",
              "the gzip data are damaged; compress the list again"),
    Malformed("l.csv.gz", PACKED + b"trailing", ListUnreadableError, "",
              "the gzip data are damaged; compress the list again"),
    Malformed("l.ndjson", b'{"email": "a@b.co"}\nmary\n', ListRowError, "row 2",
              "the line is not JSON"),
    Malformed("l.ndjson", b'{"email": "a@b.co"}\n\n{"email": \n', ListRowError, "row 2",
              "the line is not JSON"),
    Malformed("l.ndjson", b'{"email": "a@b.co"}\n["a@b.co"]\n', ListRowError, "row 2",
              "the line is JSON, but not an object"),
    Malformed("l.ndjson", b'[{"email": "a@b.co"}]\n', ListRowError, "row 1",
              "the line is JSON, but not an object"),
    Malformed("l.ndjson", b'{"email": "a@b.co"}\n' * 60_000 + b'{"email": "", "phone": "1"}\n',
              ListHeaderError, "row 60,001",
              "the field 'phone' appears here for the first time; "
              "write it into the first line too, if only as null"),
    Malformed("l.csv", b"Email\n;Phone\na@b.co;1\n", ListUnreadableError, "header",
              "the header has 1 column where the rows have 2"),
    Malformed("l.csv", b"Cell,Jones,+1 650 555 1212\n" + GOOD, ListHeaderError, "header", NO_NAMES),
    Malformed("l.csv", b"Mary,Jones,1974-05-01\n", ListHeaderError, "header", NO_NAMES),
    Malformed("l.csv", b"Mary;Jones;80331\n", ListHeaderError, "header", NO_NAMES,
              {"EMAIL": "Mail"}),
    Malformed("l.csv", b"a,b,%s\n" % (b"0f" * 32), ListHeaderError, "header", NO_NAMES),
    Malformed("l.parquet", _parquet(PEOPLE.select(pl.col("email").implode())),
              ListUnreadableError, "header",
              "the column 'email' has the type List; write it as text"),
    Malformed("l.parquet", _parquet(pl.DataFrame({"email": [b"a@b.co", b"\xff\xfe"]})),
              ListUnreadableError, "",
              "the binary column 'email' is not UTF-8 text; write it as UTF-8"),
    Malformed("l.parquet", b"", ListUnreadableError, "", CUT_PARQUET),
    Malformed("l.parquet", b"email\na@b.co\n", ListUnreadableError, "", CUT_PARQUET),
    Malformed("l.parquet", _parquet(PEOPLE)[:-20], ListUnreadableError, "", CUT_PARQUET),
    Malformed("l.csv", HEADER + GOOD + b"a@b.co,\0,Mary\n", ListRowError, "row 2",
              "a zero byte, which is not text"),
]  # fmt: skip


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.id)
def test_a_malformed_list_is_refused_with_file_place_and_fault(
    case: Malformed, tmp_path: Path
) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.content)

    with pytest.raises(ListError) as caught:
        inspect_list(FileSource(str(path), case.columns or {}))

    assert (type(caught.value), caught.value.place, caught.value.fault) == (
        case.error,
        case.place,
        case.fault,
    )
    assert str(caught.value).startswith(f"{path}: ")


def test_the_corpus_has_more_than_forty_lists() -> None:
    assert len(CORPUS) > 40


def test_a_list_that_is_not_there_is_missing(tmp_path: Path) -> None:
    for name in ("l.csv", "l.parquet", "l.ndjson.gz"):
        with pytest.raises(ListMissingError, match="there is no such file"):
            inspect_list(FileSource(str(tmp_path / name)))


def test_an_empty_folder_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "l.csv").mkdir()
    with pytest.raises(ListMissingError, match="there is no such file"):
        inspect_list(FileSource(str(tmp_path / "l.csv")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: HEADER + GOOD * 300_000 + b"a@b.co,1\n" + GOOD,
        lambda: HEADER + b'"a@b.co","1","Ma\nry"\n' * 300_000 + b"a@b.co,1\n" + GOOD,
        lambda: HEADER + GOOD * 300_000 + b'a@b.co,1,"x\n' + GOOD * 300_000,
    ],
    ids=["plain", "quoted newlines", "unclosed quote"],
)
def test_a_fault_far_into_a_long_list_is_found_at_its_row(
    make: Callable[[], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(make())
    with pytest.raises(ListRowError) as caught:
        inspect_list(FileSource(str(path)))
    assert caught.value.place == "row 300,001"


def test_a_message_holds_no_value(tmp_path: Path) -> None:
    for case in CORPUS:
        path = tmp_path / case.name
        path.write_bytes(case.content)
        with pytest.raises(ListError) as caught:
            inspect_list(FileSource(str(path), case.columns or {}))
        for value in ("a@b.co", "mary@", "6505551212"):
            assert value not in str(caught.value)


@pytest.mark.parametrize("before", [0, 300])
@pytest.mark.parametrize(
    ("row", "first_name"),
    [
        (b'a@b.co,1,Robert "Bob" Smith\n', 'Robert "Bob" Smith'),
        (b'"a@b.co","1",5" pipe\n', '5" pipe'),
        (b'"a@b.co","1 ""2""","3 ""4"""\n', '3 "4"'),
        (b'a@b.co,"",""\n', ""),
    ],
)
def test_quotes_that_leave_no_doubt_are_read(
    tmp_path: Path, row: bytes, first_name: str, before: int
) -> None:
    (tmp_path / "l.csv").write_bytes(_many(row, before))
    frame = pl.concat(CustomerList(str(tmp_path / "l.csv")).chunks())
    assert frame.select("EMAIL", "FN").row(before) == ("a@b.co", first_name)


@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "", "b c", " ", 'q"', "x,y", "l\nm"]), max_size=6),
            st.sampled_from(["\n", "\n", "\r\n"]),
        ),
        max_size=6,
    ),
    before=st.sampled_from([0, 300]),
    after=st.sampled_from([0, 2]),
)
@example(rows=[(["a"] * 5, "\n"), (["a"] * 3, "\n")], before=300, after=2)
@example(rows=[(["a"] * 3, "\r\n"), (["a"] * 3, "\n")], before=300, after=2)
@example(rows=[(["a"] * 3, "\n"), ([], "\r\n")], before=300, after=0)
def test_a_row_is_read_whole_or_named(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[str], str]],
    before: int,
    after: int,
) -> None:
    """Columns that belong to no key count too: a row too long and one too short are two faults."""
    header = ["email", "phone", "fn", "nothing"]
    whole = [(["e", "p", "f", "n"], "\n")]
    written = io.StringIO(newline="")
    for fields, end in [(header, "\n"), *whole * before, *rows, *whole * after]:
        csv.writer(written, lineterminator=end).writerow(fields)
    path = tmp_path_factory.mktemp("list") / "list.csv"
    path.write_text(written.getvalue(), newline="")

    expected = [
        fields
        for fields in csv.reader(io.StringIO(written.getvalue(), newline=""))
        if fields and (len(fields) > 1 or fields[0].strip())
    ][1:]
    broken = [number for number, fields in enumerate(expected, start=1) if len(fields) != 4]
    if broken:
        with pytest.raises(ListRowError) as caught:
            list(CustomerList(str(path)).chunks())
        assert caught.value.place == f"row {broken[0]:,}"
    else:
        read = [
            frame.select("EMAIL", "PHONE", "FN").rows()
            for frame in CustomerList(str(path)).chunks()
        ]
        assert [list(row) for frame in read for row in frame] == [fields[:3] for fields in expected]
