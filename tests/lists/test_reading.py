"""Lists in every form that people have, read to the same rows."""

import gzip
import io
import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

import fsspec
import polars as pl
import pytest

from mm_pipelines.lists import (
    CustomerList,
    FileSource,
    ListChangedError,
    ListHeaderError,
    ListUnreadableError,
    fingerprint,
    inspect_list,
    list_url,
    stat_list,
)

ROWS = [
    ("mary@example.com", "+1 650 555 1212", "Valéry"),
    ("", "0151 123", "Jürgen"),
    ("zoë@example.org", "", "Zoë"),
]
TABLE = "email,phone,fn\n" + "".join(f"{email},{phone},{name}\n" for email, phone, name in ROWS)


def rows_of(url: str, columns: dict[str, str] | None = None) -> list[tuple[object, ...]]:
    frame = pl.concat(CustomerList(url, columns).chunks())
    keys = [key for key in ("EMAIL", "PHONE", "FN") if key in frame.columns]
    return frame.select("row_number", *keys).rows()


def write(tmp_path: Path, name: str, content: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TABLE.encode(), "utf-8"),
        (TABLE.encode("utf-8-sig"), "utf-8"),
        (TABLE.encode("utf-16"), "utf-16-le"),
        (b"\xfe\xff" + TABLE.encode("utf-16-be"), "utf-16-be"),
        (TABLE.encode("utf-16-le"), "utf-16-le"),
        (TABLE.encode("utf-16-be"), "utf-16-be"),
        (TABLE.encode("utf-32"), "utf-32-le"),
        (TABLE.encode("cp1252"), "windows-1252"),
        (TABLE.encode("latin-1"), "windows-1252"),
        (TABLE.replace("\n", "\r\n").encode(), "utf-8"),
        (TABLE.replace("\n", "\r").encode(), "utf-8"),
        (TABLE.replace("\n", "\n\n").encode(), "utf-8"),
        (("\n" + TABLE + "\n \n").encode(), "utf-8"),
        (TABLE.rstrip("\n").encode(), "utf-8"),
        (TABLE.replace(",", ";").encode(), "utf-8"),
        (TABLE.replace(",", "\t").encode("cp1252"), "windows-1252"),
        (TABLE.replace(",", "|").encode(), "utf-8"),
        (("sep=;\n" + TABLE.replace(",", ";")).encode(), "utf-8"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.txt", "list.tsv", "list.csv.gz"])
def test_encoding_line_ends_and_delimiter_are_recognized(
    tmp_path: Path, name: str, content: bytes, encoding: str
) -> None:
    url = write(tmp_path, name, content)
    assert rows_of(url) == [(number, *row) for number, row in enumerate(ROWS, start=1)]
    assert inspect_list(FileSource(url)).encoding == encoding


def _ndjson(_: Path) -> tuple[str, bytes]:
    lines = [f'{{"email": "{a}", "phone": "{b}", "fn": "{c}"}}\n' for a, b, c in ROWS]
    return "list.ndjson", "".join(lines).encode()


def _parquet(_: Path) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    pl.DataFrame(ROWS, schema=["email", "phone", "fn"], orient="row").write_parquet(buffer)
    return "list.parquet", buffer.getvalue()


def _quoted(_: Path) -> tuple[str, bytes]:
    lines = ['"email","phone","fn"', *('"' + '","'.join(row) + '"' for row in ROWS)]
    return "list.csv", "\r\n".join(lines).encode()


@pytest.mark.parametrize("form", [_ndjson, _parquet, _quoted])
def test_the_form_does_not_change_the_rows(
    tmp_path: Path, form: Callable[[Path], tuple[str, bytes]]
) -> None:
    assert rows_of(write(tmp_path, *form(tmp_path))) == [
        (number, *row) for number, row in enumerate(ROWS, start=1)
    ]


def test_quotes_may_hold_delimiters_newlines_and_quotes(tmp_path: Path) -> None:
    content = b'email,fn\n"a@b.co","Mary\r\nAnn, ""M."""\nc@d.co,5" pipe\n\ne@f.co,"",\n'
    url = write(tmp_path, "list.csv", content.replace(b'"",\n', b'""\n'))
    assert rows_of(url) == [
        (1, "a@b.co", 'Mary\r\nAnn, "M."'),
        (2, "c@d.co", '5" pipe'),
        (3, "e@f.co", ""),
    ]


def test_row_numbers_run_through_a_list_of_many_blocks(tmp_path: Path) -> None:
    rows = 400_000
    lines = "".join(
        f'{number}@example.com,"a\nb",x\n' if number % 1000 == 0 else f"{number}@example.com,,x\n"
        for number in range(1, rows + 1)
    )
    url = write(tmp_path, "list.csv", b"email,fn,note\n" + lines.encode())
    frame = pl.concat(chunk.select("row_number", "EMAIL") for chunk in CustomerList(url).chunks())
    assert frame.height == rows
    assert (frame["row_number"].cast(pl.String) + "@example.com" == frame["EMAIL"]).all()


def test_a_quote_within_a_field_is_only_a_sign(tmp_path: Path) -> None:
    line = b'%d@example.com,5" pipe\n'
    content = b"email,note\n" + b"".join(line % number for number in range(9_001))
    assert inspect_list(FileSource(write(tmp_path, "list.csv", content))).rows == 9_001


def test_numbers_of_json_and_parquet_become_text(tmp_path: Path) -> None:
    json = b'{"phone": 15551234567, "fn": null}\n{"phone": 1.5551234567E10}\n{"phone": true}\n'
    assert rows_of(write(tmp_path, "list.ndjson", json)) == [
        (1, "15551234567", ""),
        (2, "15551234567", ""),
        (3, "true", ""),
    ]
    buffer = io.BytesIO()
    pl.DataFrame({"phone": [15551234567.0, None, 0.5], "fn": [1, 2, None]}).write_parquet(buffer)
    assert rows_of(write(tmp_path, "list.parquet", buffer.getvalue())) == [
        (1, "15551234567", "1"),
        (2, "", "2"),
        (3, "0.5", ""),
    ]


@pytest.mark.parametrize("name", ["list.csv", "list.ndjson.gz", "list.parquet"])
def test_a_list_may_lie_at_any_fsspec_url(name: str, tmp_path: Path) -> None:
    form = _parquet if "parquet" in name else _ndjson if "ndjson" in name else None
    content = form(tmp_path)[1] if form else TABLE.encode()
    content = gzip.compress(content) if name.endswith(".gz") else content
    url = f"memory://lists/{name}"
    with fsspec.open(url, "wb") as file:
        file.write(content)

    assert rows_of(url) == [(number, *row) for number, row in enumerate(ROWS, start=1)]
    assert (
        inspect_list(FileSource(url)).fingerprint == fingerprint(url) == sha256(content).hexdigest()
    )
    stat = stat_list(url)
    assert stat is not None
    assert stat.size == len(content)


def test_a_report_counts_without_values(tmp_path: Path) -> None:
    content = b"Email,Phone,First Name,Note\na@b.co,n/a,Mary,1\n,#N/A,,2\n-,123,null,3\n"
    report = inspect_list(FileSource(write(tmp_path, "list.csv", content)))

    assert report.fingerprint == sha256(content).hexdigest()
    assert (report.rows, report.rows_with_identifier, report.size) == (3, 2, len(content))
    assert report.columns == {"EMAIL": ("Email",), "PHONE": ("Phone",), "FN": ("First Name",)}
    assert report.unrecognized == ("Note",)
    assert report.filled == {"EMAIL": 1, "PHONE": 1, "FN": 1}
    assert report.share("EMAIL") == pytest.approx(1 / 3)
    assert (report.format, report.encoding, report.delimiter) == ("csv", "ascii", ",")


def test_a_header_without_rows_is_an_empty_list(tmp_path: Path) -> None:
    report = inspect_list(FileSource(write(tmp_path, "list.csv", b"email,phone\n")))
    assert (report.rows, report.rows_with_identifier, report.share("EMAIL")) == (0, 0, 0.0)


def test_a_path_is_made_from_audience_and_day(tmp_path: Path) -> None:
    template = "customers/{audience}/{day}.csv"
    assert list_url(template, tmp_path, audience="acme", day=date(2026, 11, 20)) == str(
        tmp_path / "customers/acme/2026-11-20.csv"
    )
    url = list_url("s3://lists/{audience}-{day}.csv", tmp_path, audience="a", day="d")
    assert url == "s3://lists/a-d.csv"


def test_a_changed_list_is_recognized_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    assert stat_list(str(path)) is None
    path.write_bytes(b"email\n")
    before = stat_list(str(path))
    path.write_bytes(b"email\na@b.co\n")
    after = stat_list(str(path))
    assert before is not None
    assert after is not None
    assert before.mark != after.mark
    assert after.modified_at is not None
    assert (datetime.now(UTC) - after.modified_at).total_seconds() < 60


def test_columns_of_the_configuration_are_the_whole_mapping(tmp_path: Path) -> None:
    url = write(tmp_path, "list.csv", b"email,Mail privat,fn\na@b.co,c@d.co,Mary\n")
    assert rows_of(url, {"EMAIL": "mail  privat"}) == [(1, "c@d.co")]
    with pytest.raises(ListHeaderError, match="there is no column 'Handy'"):
        CustomerList(url, {"EMAIL": "email", "PHONE": "Handy"})


def _parquet_of(tmp_path: Path, **columns: pl.Series) -> str:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return write(tmp_path, "list.parquet", buffer.getvalue())


def test_text_written_as_binary_is_decoded(tmp_path: Path) -> None:
    url = _parquet_of(tmp_path, email=pl.Series(["zoë@example.org".encode(), None]))
    assert rows_of(url) == [(1, "zoë@example.org"), (2, "")]


def test_a_phone_number_in_a_decimal_column_has_no_fraction(tmp_path: Path) -> None:
    numbers = pl.Series([4915112345678, None], dtype=pl.Int64).cast(pl.Decimal(20, 2))
    assert rows_of(_parquet_of(tmp_path, phone=numbers)) == [(1, "4915112345678"), (2, "")]


def test_a_column_without_values_keeps_every_row(tmp_path: Path) -> None:
    url = _parquet_of(tmp_path, email=pl.Series([None] * 500, dtype=pl.Null))
    assert inspect_list(FileSource(url)).rows == 500


def test_a_parquet_file_replaced_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    url = _parquet_of(tmp_path, email=pl.Series(["a@b.co"]))
    before = Path(url).stat()
    reading = CustomerList(url)
    replacement = tmp_path / "replacement"
    replacement.write_bytes(Path(url).read_bytes())
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.replace(url)
    with pytest.raises(ListChangedError):
        list(reading.chunks())


def test_a_written_out_null_falls_back_on_the_next_column(tmp_path: Path) -> None:
    content = b"email,Mobile,Phone\n,n/a,123\n,456,789\n"
    assert rows_of(write(tmp_path, "list.csv", content)) == [(1, "", "123"), (2, "", "456")]


@pytest.mark.parametrize("encoding", ["windows-1250", "iso-8859-2", "windows-1251", "gb18030"])
def test_the_encoding_of_the_configuration_replaces_the_guess(
    tmp_path: Path, encoding: str
) -> None:
    name = "Дворжак" if encoding == "windows-1251" else "Dvořák"
    content = f"email,fn\na@b.co,{name}\n".encode(encoding, errors="strict")
    report_url = write(tmp_path, "list.csv", content)
    [frame] = CustomerList(report_url, encoding=encoding).chunks()
    assert frame["FN"].to_list() == [name]
    assert inspect_list(FileSource(report_url, encoding=encoding)).encoding == encoding


def test_text_that_is_not_of_the_configured_encoding_is_refused(tmp_path: Path) -> None:
    url = write(tmp_path, "list.csv", b"email,fn\na@b.co,Val\xe9ry\n")
    with pytest.raises(ListUnreadableError, match="the text is not utf-8 to its end"):
        inspect_list(FileSource(url, encoding="utf-8"))
