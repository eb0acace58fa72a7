"""Phone numbers that depend on libphonenumber's rules, against the plain ``phonenumbers`` loop.

``python -m benchmarks.phones [ROWS]`` prints the ratio. The numbers are distinct, and none can be
normalized by removing signs: Argentina's mobiles with 15, Brazil's carrier codes, German numbers
with country code and without plus, letters, other scripts' digits, extensions.
"""

import sys

import phonenumbers
import polars as pl

from benchmarks.figure import Figure, median_seconds
from mm_pipelines.identity.phone import normalize_phones

ROWS = 1_000_000
PEER_ROWS = 50_000


def run(rows: int = ROWS) -> list[Figure]:
    numbers = make_numbers(rows)
    values, regions = numbers["value"], numbers["region"]
    # One run: a second would find the decisions of the first in the caches.
    ours = rows / median_seconds(lambda: normalize_phones(values, regions), runs=1)
    peer = numbers.head(PEER_ROWS).rows()
    loop = len(peer) / median_seconds(lambda: [_plain(*number) for number in peer])
    return [
        Figure(
            "distinct phones that only libphonenumber decides",
            ours,
            "numbers/s",
            against=loop,
            peer="phonenumbers, one by one",
            target="at least 5 times",
        )
    ]


def make_numbers(rows: int) -> pl.DataFrame:
    """Distinct numbers, ``value`` and ``region``, the styles in turn."""
    number = pl.col("number")
    line = (number * 48_271 % 99_999_989).cast(pl.String).str.zfill(8)
    first, last = line.str.head(4), line.str.tail(4)
    letters = line.str.replace_many(dict(zip("0123456789", "ABDGJMPTWX", strict=True)))
    arabic = line.str.replace_many(dict(zip("0123456789", "٠١٢٣٤٥٦٧٨٩", strict=True)))
    styles = (
        ("ar", pl.format("011 15 {}-{}", first, last)),
        ("ar", pl.format("0351 15 {}", line.str.tail(7))),
        ("br", pl.format("0 15 11 9{}-{}", first, last)),
        ("br", pl.format("0 21 21 9{}-{}", first, last)),
        ("de", pl.format("49151{}", line)),
        ("us", pl.format("1-8{}-{}", line.str.head(2), letters.str.tail(7))),
        ("us", pl.format("(٦٥٠) {}", arabic.str.tail(7))),
        ("us", pl.format("212 2{} #{}", line.str.head(6), last)),
        ("gb", pl.format("tel:+44 20 {} {};ext={}", first, last, line.str.tail(2))),
        ("co", pl.format("03 3{}{}", line, line.str.tail(1))),
    )
    style = number % len(styles)
    value, region = pl.lit(None, dtype=pl.String), pl.lit(None, dtype=pl.String)
    for place, (of_region, written) in enumerate(styles):
        value = pl.when(style == place).then(written).otherwise(value)
        region = pl.when(style == place).then(pl.lit(of_region)).otherwise(region)
    numbers = pl.select(number=pl.int_range(rows * 5 // 4)).select(value=value, region=region)
    return numbers.unique(maintain_order=True).head(rows)


def _plain(value: str, region: str) -> str | None:
    try:
        number = phonenumbers.parse(value, region.upper())
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def main(arguments: list[str]) -> None:
    for figure in run(*map(int, arguments)):
        print(
            f"{figure.name}: {figure.value:,.0f} {figure.unit}, {figure.ratio:.1f} times "
            f"{figure.peer} ({figure.target})"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
