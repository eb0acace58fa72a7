"""CSV, TSV and TXT: rows of fields, in chunks, each row with exactly the header's fields.

Polars reads the chunks. It fills short rows silently and does not report the row of a fault, so a
chunk is accepted from it only if the count of delimiters proves that every row is complete.
Python's ``csv`` reads every other chunk and reports the row.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence

import polars as pl

from mm_pipelines.lists.errors import ListRowError, ListUnreadableError, row
from mm_pipelines.lists.quotes import has_stray_quotes, is_ambiguous

DELIMITERS = ",;\t|"
_SNIFFED_BYTES = 64 << 10
_LONGEST_FIELD = 1 << 20
_LONGEST_RECORDS = 32 << 20
_LINES_TRIED = 1000
_BLANK_LINES = re.compile(rb"\n(?:[ \t]*\r?\n)+")


class Delimited:
    """The rows of one delimited file.

    Args:
        url: The file, for messages.
        blocks: UTF-8 text.

    Attributes:
        delimiter: The character between the fields.
        header: The column names.
    """

    def __init__(self, url: str, blocks: Iterator[bytes]) -> None:
        self._url = url
        self._records = _whole_records(blocks)
        self._first = next(self._records, b"")
        sample = self._first[:_SNIFFED_BYTES].decode(errors="ignore")
        declared = re.match(r"\s*sep=(.)\r?\n", sample)
        if declared:
            # Excel's own line above the header.
            self._first, sample = self._first[len(declared[0].encode()) :], sample[declared.end() :]
        if not self._first.strip():
            raise ListUnreadableError(url, "", "the list is empty; it has no header")
        self.delimiter = declared[1] if declared else sniff_delimiter(sample)
        self.header = self._take_header()
        if len(self.header) == 1:
            self._check_undivided(sample)

    def chunks(self, places: Sequence[int]) -> Iterator[pl.DataFrame]:
        """The columns at ``places``, named by their place, in frames of text without nulls.

        Raises:
            ListRowError: A row has more or fewer fields than the header, or its quotes are broken.
        """
        done = 0
        data = self._first
        while True:
            if data:
                frame = self._fast(data, places)
                if frame is None:
                    frame = self._exact(data, places, done)
                done += frame.height
                yield frame
            following = next(self._records, None)
            if following is None:
                return
            data = following

    def _take_header(self) -> list[str]:
        # Decodes only the header; the block is a hundred thousand times as long.
        text = io.TextIOWrapper(io.BytesIO(self._first), encoding="utf-8", newline="")
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        try:
            header = next(fields for fields in reader if _holds_something(fields))
        except (csv.Error, StopIteration):
            fault = "the quotes of the first line are broken"
            raise ListUnreadableError(self._url, "header", fault) from None
        lines = reader.line_num
        end = -1
        for _ in range(lines):
            end = self._first.find(b"\n", end + 1)
            if end < 0:
                end = len(self._first)
        self._first = self._first[end + 1 :]
        return header

    def _check_undivided(self, sample: str) -> None:
        """Refuse rows that a delimiter divides below a header that none divides."""
        for delimiter in DELIMITERS:
            _, *rows = _widths(sample, delimiter) or [1]
            if min(rows, default=1) > 1:
                fault = f"the header has 1 column where the rows have {max(rows)}"
                raise ListUnreadableError(self._url, "header", fault)

    def _fast(self, data: bytes, places: Sequence[int]) -> pl.DataFrame | None:
        """The chunk as Polars reads it; None unless every row is provably complete."""
        quoted, width = b'"' in data, len(self.header)
        # Polars drops a byte order mark at the start of its input, which is not the file's start.
        if b"\0" in data or data.startswith(codecs.BOM_UTF8):
            return None
        frame = self._complete(data, places, quoted=quoted)
        if (frame is None or width == 1) and not quoted:
            # Blank lines are not rows. They are rare, so they are removed only at this point.
            frame = self._complete(_BLANK_LINES.sub(b"\n", b"\n" + data)[1:], places, quoted=False)
        return frame

    def _complete(self, data: bytes, places: Sequence[int], *, quoted: bool) -> pl.DataFrame | None:
        try:
            # All columns, because Polars refuses longer rows only if it reads every column.
            frame = pl.read_csv(
                data,
                has_header=False,
                separator=self.delimiter,
                quote_char='"' if quoted else None,
                schema={f"column_{place + 1}": pl.String for place in range(len(self.header))},
                empty_string_is_null=False,
                missing_columns="insert",
            )
        except (pl.exceptions.PolarsError, ValueError):
            return None
        delimiters = frame.height * (len(self.header) - 1)
        if quoted or not _fills(data, frame, delimiters):
            inside = self._delimiters_inside(frame) if quoted else 0
            if data.count(self.delimiter.encode()) != delimiters + inside:
                return None
        if quoted and _holds_quotes(frame) and has_stray_quotes(data, self.delimiter.encode()):
            return None
        return frame.select(pl.col(f"column_{place + 1}").alias(str(place)) for place in places)

    def _delimiters_inside(self, frame: pl.DataFrame) -> int:
        inside = pl.all().str.count_matches(self.delimiter, literal=True).sum()
        return int(frame.select(pl.sum_horizontal(inside)).item())

    def _exact(self, data: bytes, places: Sequence[int], done: int) -> pl.DataFrame:
        columns: list[list[str]] = [[] for _ in places]
        width, number = len(self.header), done
        lines = _Lines(data.decode())
        csv.field_size_limit(_LONGEST_FIELD)
        try:
            for fields in csv.reader(lines, delimiter=self.delimiter, strict=True):
                record = lines.take()
                if not fields or (len(fields) == 1 and width > 1 and not fields[0].strip()):
                    continue
                number += 1
                self._check_row(number, fields, record)
                for column, place in zip(columns, places, strict=True):
                    column.append(fields[place])
        except csv.Error as error:
            raise ListRowError(self._url, row(number + 1), _fault(str(error))) from None
        return pl.DataFrame(
            {
                str(place): pl.Series(column, dtype=pl.String)
                for place, column in zip(places, columns, strict=True)
            }
        )

    def _check_row(self, number: int, fields: list[str], record: str) -> None:
        fault = None
        if len(fields) != len(self.header):
            fault = f"{_fields(len(fields))} where the header has {len(self.header)}"
        elif any("\0" in field for field in fields):
            fault = "a zero byte, which is not text"
        elif is_ambiguous(record, fields, self.delimiter):
            fault = "quotes inside unquoted fields; quote the fields and double the quotes in them"
        if fault:
            raise ListRowError(self._url, row(number), fault)


class _Lines:
    """The lines of a text, and those of the record that a csv reader read last."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="")
        self._taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._taken.append(line)
            yield line

    def take(self) -> str:
        """The lines read since the last call."""
        record = "".join(self._taken)
        self._taken.clear()
        return record


def sniff_delimiter(sample: str) -> str:
    """The character that splits most lines into the same number of fields, most fields first."""
    best, best_score = DELIMITERS[0], (0.0, 0)
    for delimiter in DELIMITERS:
        widths = _widths(sample, delimiter)
        if not widths or widths[0] < 2:
            continue
        score = (widths.count(widths[0]) / len(widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _widths(sample: str, delimiter: str) -> list[int]:
    """The number of fields in each of the first lines; empty if the quotes are broken."""
    widths: list[int] = []
    try:
        for fields in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if _holds_something(fields):
                widths.append(len(fields))
            if len(widths) == 50:
                break
    except csv.Error:
        return []
    # The sample may end within a line.
    return widths[:-1] if len(widths) > 2 else widths


def _whole_records(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks that end where a record ends: at the end of a line outside quotes."""
    carry = b""
    for block in map(_with_newlines, blocks):
        end = _end_of_records(block, carry.count(b'"'))
        if end > 0:
            # One copy instead of two: blocks are megabytes long.
            yield b"".join((carry, memoryview(block)[:end]))
            carry = block[end:]
            continue
        carry += block
        if len(carry) > _LONGEST_RECORDS:
            # A quote within a field, or one that is never closed. The exact reading accepts the
            # first and reports the row of the second.
            end = carry.rfind(b"\n") + 1
            if end > 0:
                yield carry[:end]
                carry = carry[end:]
    if carry:
        yield carry


def _end_of_records(data: bytes, quotes_before: int) -> int:
    # Searching is eight times as fast as counting, and most lists contain no quotes.
    quotes, end = quotes_before + (data.count(b'"') if b'"' in data else 0), len(data)
    for _ in range(_LINES_TRIED):
        line_end = data.rfind(b"\n", 0, end)
        if line_end < 0:
            return 0
        quotes -= data.count(b'"', line_end, end)
        if quotes % 2 == 0:
            return line_end + 1
        end = line_end
    return 0


def _fills(data: bytes, frame: pl.DataFrame, delimiters: int) -> bool:
    """Whether the fields, that many delimiters and the line ends add up to the bytes.

    No row has more delimiters or a longer end than assumed, so the sum is right only if every row
    is complete. A wrong sum proves nothing, because line ends may be mixed. This comes before the
    count of delimiters, because the count holds Python's lock and blocks the other threads.
    """
    if data.endswith(b"\r\n"):
        ends = 2 * frame.height
    elif data.endswith(b"\n") and b"\r" not in data:
        ends = frame.height
    else:
        return False
    fields = frame.select(pl.sum_horizontal(pl.all().str.len_bytes().sum())).item()
    return bool(fields + delimiters + ends == len(data))


def _holds_quotes(frame: pl.DataFrame) -> bool:
    holds = pl.all().str.contains('"', literal=True).any()
    return bool(frame.select(pl.any_horizontal(holds)).item())


def _with_newlines(block: bytes) -> bytes:
    # Old Macintosh programs end lines with a carriage return alone.
    return block.replace(b"\r", b"\n") if b"\r" in block and b"\n" not in block else block


def _holds_something(fields: Sequence[str]) -> bool:
    return any(field.strip() for field in fields)


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _fault(message: str) -> str:
    if "unexpected end" in message:
        return "a quoted field begins here and is never closed"
    if "expected after" in message:
        return "there is text after a closing quote"
    if "larger than field limit" in message:
        return "a field is longer than a million characters; a quote may be unclosed"
    return "the row cannot be read"
