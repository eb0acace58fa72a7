"""How fast a list becomes a payload file: against the official SDK, plain digits and openssl.

``python -m benchmarks.hashed_payload`` prints the figures; with ``--large`` those of memory and
growth at 5 and 20 million rows instead. Each memory trial is a process of its own, so that its
peak is its own.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from unittest.mock import patch

import polars as pl
from facebook_business.adobjects.customaudience import CustomAudience

from benchmarks.figure import Figure, median_seconds, peak_megabytes
from mm_pipelines.identity.hashing import sha256
from mm_pipelines.identity.phone import columns as phone_columns
from mm_pipelines.lists import FileSource
from mm_pipelines.payload import build_hashed_payload
from mm_pipelines.storage import Storage

ROWS = 1_000_000
PEER_ROWS = 100_000
_KEYS = ["EMAIL", "PHONE", "FN", "LN"]


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="mm-bench-") as folder:
        scratch = Path(folder)
        customers = scratch / "customers.csv"
        make_list(customers, ROWS)
        ours = ROWS / median_seconds(lambda: _build(customers, scratch))
        return [
            Figure(
                "list to payload file",
                ours,
                "rows/s",
                against=_sdk_rows_per_second(customers),
                peer="facebook_business, normalize and hash only",
                target="at least 10 times",
            ),
            Figure(
                "time with phones by libphonenumber's rules",
                1 / ours,
                "s/row",
                against=1 / _digits_only_rows_per_second(customers, scratch),
                peer="the same with phones cut to digits",
                target="at most 1.3 times",
            ),
            Figure(
                "hash stage, one core",
                _hashes_per_second(),
                "hashes/s",
                against=_openssl_hashes_per_second(),
                peer="openssl speed",
                target="at least 0.55",
            ),
            _peak_figure(5_000_000, _peak(5_000_000)[0], "under 1,000 MB"),
        ]


def make_list(path: Path, rows: int) -> None:
    """Write EMAIL, PHONE, FN and LN of invented people, one row in fifty there twice."""
    number = pl.col("number")
    area, line = (number * 7919 % 1000).cast(pl.String).str.zfill(3), number * 104_729 % 10_000
    line = line.cast(pl.String).str.zfill(4)
    eight = area + line + (number % 10).cast(pl.String)
    styles = (
        pl.format("+1 (650) {}-{}", area, line),
        pl.format("(415) {}-{}", area, line),
        pl.format("1212{}{}", area, line),
        pl.format("+44 (0)20 7{} {}", area, line),
        pl.format("0044 7700 9{}{}", area.str.head(1), line),
        pl.format("+49 151 {}", eight),
        pl.format("49171{}{}", area, line),
        pl.format("+33 6.{}.{}.1", area, line),
        pl.format("+39 06 698 {}", line),
        pl.format("(+84) 091-{}{}", area, line),
        pl.format("+91 98{}", eight),
        pl.format("650-{}-{} ext. {}", area, line, number % 90 + 1),
    )
    phone = pl.lit(None, dtype=pl.String)
    for place, style in enumerate(styles):
        phone = pl.when(number % len(styles) == place).then(style).otherwise(phone)
    first = pl.Series(["Mary", "José", "Anna-Lena", "Søren", "Li", "Priya", "Zoë", "D'Arcy"])
    last = pl.Series(["Smith", "O'Brien", "García", "Müller", "Dupont", "Rossi", "Nguyễn"])
    with path.open("wb") as file:
        for start in range(0, rows, ROWS):
            people = pl.select(row=pl.int_range(start, min(start + ROWS, rows))).select(
                number=pl.when(pl.col("row") % 50 == 49)
                .then(pl.col("row") * 31 // 37)
                .otherwise("row")
            )
            table = people.select(
                pl.format("User.{}@Example{}.com", number, number % 7).alias("Email"),
                phone.alias("Phone"),
                pl.lit(first).gather(number % len(first)).alias("First Name")
                + (number * 13 % 600).cast(pl.String),
                pl.lit(last).gather(number % len(last)).alias("Last Name")
                + (number * 17 % 3000).cast(pl.String),
            )
            table.write_csv(file, include_header=start == 0)


def _build(customers: Path, scratch: Path) -> None:
    storage = Storage(str(scratch / "storage"))
    built = build_hashed_payload(
        FileSource(str(customers)), storage, folder="hashed", default_country="US"
    )
    storage.delete(built.path)


def _sdk_rows_per_second(customers: Path) -> float:
    with customers.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        rows = [row for row, _ in zip(reader, range(PEER_ROWS), strict=False)]
    return PEER_ROWS / median_seconds(
        lambda: CustomAudience.format_params(schema=_KEYS, users=rows, is_raw=True)
    )


def _digits_only_rows_per_second(customers: Path, scratch: Path) -> float:
    def digits(values: pl.Series, _regions: pl.Series, _convention: object) -> pl.Series:
        return values.str.replace_all(r"\D", "")

    with patch.object(phone_columns, "normalize_phones", digits):
        return ROWS / median_seconds(lambda: _build(customers, scratch))


def _hashes_per_second() -> float:
    values = pl.select(value=pl.format("user.{}@example.com", pl.int_range(ROWS))).to_series()
    sha256(values)
    begun = process_time()
    sha256(values)
    return ROWS / (process_time() - begun)


def _openssl_hashes_per_second() -> float:
    command = ["openssl", "speed", "-bytes", "24", "-seconds", "1", "-mr", "-evp", "sha256"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bytes_per_second = float(answer.strip().splitlines()[-1].split(":")[-1])
    return bytes_per_second / 24


def large() -> list[Figure]:
    """Peak memory at 5 and 20 million rows, and how the time per row grows between them."""
    small_peak, small_rate = _peak(5_000_000)
    large_peak, large_rate = _peak(20_000_000)
    return [
        _peak_figure(5_000_000, small_peak, "under 1,000 MB"),
        _peak_figure(20_000_000, large_peak, "under 1,500 MB"),
        Figure(
            "time per row at 20 M rows",
            1 / large_rate,
            "s/row",
            against=1 / small_rate,
            peer="at 5 M rows",
            target="at most 1.3 times",
        ),
    ]


def _peak_figure(rows: int, megabytes: float, target: str) -> Figure:
    return Figure(f"peak memory, {rows:,} rows", megabytes, "MB", target=target)


def _peak(rows: int) -> tuple[float, float]:
    """Peak memory (MB) and rows per second of a process that makes one payload."""
    command = [sys.executable, "-m", "benchmarks.hashed_payload", "--peak", str(rows)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    megabytes, rows_per_second = (float(word) for word in answer.split()[-2:])
    return megabytes, rows_per_second


def _measure_peak(rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="mm-bench-") as folder:
        scratch = Path(folder)
        customers = scratch / "customers.csv"
        # The list is made by another process: its memory must not count.
        maker = (
            f"from benchmarks.hashed_payload import *; make_list(Path({str(customers)!r}), {rows})"
        )
        subprocess.run([sys.executable, "-c", maker], check=True)
        begun = perf_counter()
        _build(customers, scratch)
        seconds = perf_counter() - begun
    print(peak_megabytes(), rows / seconds)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--peak"]:
        _measure_peak(int(arguments[1]))
        return
    figures = large() if "--large" in arguments else run()
    for figure in figures:
        ratio = "" if figure.ratio is None else f"  ratio {figure.ratio:.2f} to {figure.peer}"
        print(f"{figure.name}: {figure.value:,.3g} {figure.unit}{ratio}  ({figure.target})")


if __name__ == "__main__":
    main(sys.argv[1:])
