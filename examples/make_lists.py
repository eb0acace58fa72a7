"""Make the sample customer lists: the same messy people every time.

Run ``python examples/make_lists.py`` to write ``examples/customers/`` again; the output is
committed, so that the demo needs no step before it. The people are invented. Addresses are of the
domains that RFC 2606 reserves, phone numbers of the ranges that regulators keep for fiction where
there are such (NANPA's 555-01xx, Ofcom, Bundesnetzagentur, Arcep, ACMA), and of unassigned ranges
elsewhere.
"""

import csv
import io
import random
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 20261118
DAYS = ("2026-11-18", "2026-11-19", "2026-11-20")
OUTPUT = Path(__file__).parent / "customers"

FIRST_NAMES = (
    "Mary", "John", "José", "Valéry", "Zoë", "Anna-Lena", "Jean-Luc", "Søren", "Siobhán", "Li",
    "Priya", "Ahmed", "Chloé", "François", "Jürgen", "Renée", "Iñigo", "Ngọc", "Olga", "D'Arcy",
    "Mary Ann", "Björn", "Amélie", "Noah", "Fatima", "Giulia", "Luca", "Hannah", "Thomas", "Ines",
)  # fmt: skip
LAST_NAMES = (
    "Smith", "O'Brien-Smith", "García", "Müller", "Dupont", "Rossi", "van der Berg", "Nguyễn",
    "Østergård", "St. John", "McDonald", "Schröder", "Lefèvre", "D'Angelo", "Kowalski", "Patel",
    "Fernández López", "Groß", "Bianchi", "Johnson", "Weiß", "Martin", "Ní Dhuibhir", "Silva",
)  # fmt: skip
BLANKS = ("", "", "", " ", "null", "N/A", "-", "#N/A", "None", "NaN")


@dataclass(frozen=True)
class Country:
    """A country's people: how they write it, and how their phone numbers look."""

    code: str
    names: tuple[str, ...]
    calling_code: str
    trunk: str
    ranges: tuple[tuple[str, int], ...]  # digits that a number begins with, how many follow
    places: tuple[tuple[str, str, str], ...]  # city, state, postal code


COUNTRIES = (
    Country(
        "US", ("US", "USA", "United States", "us"), "1", "",
        tuple((f"{area}55501", 2) for area in
              (202, 206, 212, 213, 214, 303, 305, 312, 404, 415, 503, 512, 602, 617, 646, 650, 702,
               713, 718, 720, 737, 773, 786, 801, 808, 817, 832, 845, 858, 907, 917, 925, 949)),
        (("New York", "NY", "10001"), ("Menlo Park", "California", "94025-1234"),
         ("Boston", "MA", "02108"), ("St. Louis", "Missouri", "63101")),
    ),
    Country(
        "GB", ("GB", "UK", "United Kingdom", "GBR"), "44", "0",
        (("2079460", 3), ("7700900", 3), ("1134960", 3), ("1214960", 3), ("1314960", 3),
         ("1614960", 3), ("2920180", 3)),
        (("London", "Greater London", "SW1A 1AA"), ("Leeds", "", "LS1 4DY"),
         ("Cardiff", "Wales", "cf10 1ep")),
    ),
    Country(
        "DE", ("DE", "Germany", "Deutschland", "DEU"), "49", "0",
        (("3023125", 3), ("6990009", 3), ("4066969", 3), ("2214710", 3), ("8999998", 3),
         ("1713920", 3)),
        (("Berlin", "Berlin", "10115"), ("München", "Bayern", "80331"),
         ("Köln", "Nordrhein-Westfalen", "50667")),
    ),
    Country(
        "FR", ("FR", "France", "france", "FRA"), "33", "0",
        (("19900", 4), ("26191", 4), ("63998", 4)),
        (("Paris", "Île-de-France", "75018"), ("Lyon", "", "69001"),
         ("Saint-Étienne", "", "42000")),
    ),
    Country(
        "IT", ("IT", "Italy", "Italia", "ITA"), "39", "",
        (("060000", 4), ("020000", 4)),
        (("Roma", "RM", "00184"), ("Milano", "MI", "20121")),
    ),
    Country(
        "AU", ("AU", "Australia", "AUS"), "61", "0",
        (("25550", 4), ("35550", 4), ("75550", 4), ("85550", 4)),
        (("Sydney", "NSW", "2000"), ("Melbourne", "Victoria", "3000")),
    ),
    Country(
        "VN", ("VN", "Viet Nam", "Vietnam"), "84", "0",
        (("91000", 4),),
        (("Hà Nội", "", "100000"), ("Đà Nẵng", "", "550000")),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One invented person; either of the two identifiers may be missing, not both."""

    email: str
    phone: str  # national digits without trunk prefix
    first: str
    last: str
    country: Country
    place: tuple[str, str, str]
    born: tuple[int, int, int]
    gender: str


def people(chance: random.Random, mix: dict[str, int], tag: str) -> Iterator[Person]:
    """An endless stream of different people."""
    countries = {country.code: country for country in COUNTRIES}
    number = 0
    while True:
        number += 1
        country = countries[chance.choices(list(mix), list(mix.values()))[0]]
        begin, follow = chance.choice(country.ranges)
        first, last = chance.choice(FIRST_NAMES), chance.choice(LAST_NAMES)
        domain = chance.choice(("example.com", "example.org", "example.net", "mail.example.com"))
        has = chance.choices(("both", "email", "phone"), (70, 20, 10))[0]
        yield Person(
            email=f"{_roman(first)}.{_roman(last)}{tag}{number}@{domain}" * (has != "phone"),
            phone=(begin + f"{chance.randrange(10**follow):0{follow}}") * (has != "email"),
            first=first,
            last=last,
            country=country,
            place=chance.choice(country.places),
            born=(chance.randint(1940, 2006), chance.randint(1, 12), chance.randint(1, 28)),
            gender=chance.choice(("f", "m")),
        )


def messy_email(chance: random.Random, email: str) -> str:
    """An address as people type it: case and padding vary, some cannot be used."""
    if not email:
        return chance.choice(BLANKS)
    if chance.random() < 0.015:
        return chance.choice(
            (email.replace("@", ""), email.replace("@", "@@"), email.replace("@", " @ "),
             email.split("@", maxsplit=1)[0] + "@localhost", email + ".", "unknown")
        )  # fmt: skip
    shape = chance.choice((str, str, str, str.upper, str.title, lambda text: f"  {text} "))
    return shape(email)


def messy_phone(chance: random.Random, person: Person) -> str:
    """A number as people write it: national or international, with all sorts of signs."""
    digits, country = person.phone, person.country
    if not digits:
        return chance.choice(BLANKS)
    if chance.random() < 0.015:
        return chance.choice(("12345", "call the office", digits[:4], "000", digits * 2))
    styles: tuple[Callable[[], str], ...] = (
        lambda: f"+{country.calling_code}{digits}",
        lambda: f"+{country.calling_code} {_spaced(digits)}",
        lambda: (
            f"+{country.calling_code} ({country.trunk or digits[:3]}) "
            + (_spaced(digits) if country.trunk else _spaced(digits[3:]))
        ),
        lambda: f"00{country.calling_code} {_spaced(digits)}",
        lambda: f"{country.calling_code}{digits}",
        lambda: f"{country.trunk}{digits}",
        lambda: f"({country.trunk}{digits[:3]}) {digits[3:6]}-{digits[6:]}",
        lambda: f"{country.trunk}{digits[:3]}.{digits[3:6]}.{digits[6:]}",
        lambda: f"{country.trunk}{_spaced(digits)} ext. {chance.randint(1, 99)}",
        lambda: f"Tel: {country.trunk}{_spaced(digits)}",
    )
    weights = (25, 20, 8, 8, 10, 14, 6, 4, 3, 2)
    return chance.choices(styles, weights)[0]()


def messy_rows(chance: random.Random, members: list[Person]) -> Iterator[dict[str, str]]:
    """The day's rows: all people once, some twice and differently, some rows without a person."""
    for person in members:
        yield _row(chance, person)
        if chance.random() < 0.04:
            yield _row(chance, person)
        if chance.random() < 0.02:
            yield dict.fromkeys(_row(chance, person), chance.choice(("", "", " ", "null")))


def _row(chance: random.Random, person: Person) -> dict[str, str]:
    city, state, zip_code = person.place
    year, month, day = person.born
    sparse = chance.random() < 0.2

    def maybe(value: str) -> str:
        return chance.choice(BLANKS) if sparse and chance.random() < 0.6 else value

    first = chance.choice((person.first, person.first, person.first.upper(), f" {person.first}"))
    if chance.random() < 0.1:
        first = unicodedata.normalize("NFD", first)
    return {
        "email": messy_email(chance, person.email),
        "phone": messy_phone(chance, person),
        "first": maybe(first),
        "last": maybe(chance.choice((person.last, person.last, person.last.lower()))),
        "city": maybe(city),
        "state": maybe(state),
        "zip": maybe(zip_code),
        "country": chance.choice(BLANKS)
        if chance.random() < 0.05
        else chance.choice(person.country.names),
        "birthday": maybe(chance.choice((f"{year}-{month:02}-{day:02}", f"{day}.{month}.{year}"))),
        "gender": maybe(
            chance.choice((person.gender, {"f": "Female", "m": "Male"}[person.gender]))
        ),
    }


@dataclass(frozen=True)
class SampleList:
    """How one audience's lists are written."""

    audience: str
    file: str
    headers: dict[str, str]  # field of a row to the header in the list
    mix: dict[str, int]
    rows: int
    encoding: str = "utf-8"
    delimiter: str = ","


LISTS = (
    SampleList(
        "acme_newsletter", "{day}.csv",
        {"email": "Email Address", "first": "First Name", "last": "Last Name",
         "phone": "Phone Number", "country": "Country", "birthday": "Birthday", "tags": "Tags"},
        {"US": 55, "GB": 20, "FR": 10, "IT": 5, "AU": 5, "VN": 5}, 4000, encoding="utf-8-sig",
    ),
    SampleList(
        "acme_loyalty", "{day}.tsv.gz",
        {"member": "Member No", "phone": "Mobile", "email": "E-mail", "first": "First name",
         "last": "Last name", "city": "City", "state": "State", "zip": "Zip", "country": "Country",
         "gender": "Gender"},
        {"US": 40, "GB": 20, "DE": 15, "FR": 15, "AU": 10}, 5000, delimiter="\t",
    ),
    SampleList(
        "globex_customers", "{day}.csv",
        {"last": "Nachname", "first": "Vorname", "email": "E-Mail", "phone": "Telefon",
         "zip": "PLZ", "city": "Ort", "country": "Land", "note": "Bemerkung"},
        {"DE": 75, "FR": 10, "IT": 10, "GB": 5}, 4500, encoding="cp1252", delimiter=";",
    ),
)  # fmt: skip


def write(sample: SampleList, output: Path) -> None:
    """Write the three days of one audience; most people stay from day to day."""
    chance = random.Random(f"{SEED} {sample.audience}")  # noqa: S311 - sample data, repeatable
    newcomers = people(chance, sample.mix, sample.audience[0:1])
    members = [next(newcomers) for _ in range(sample.rows)]
    for day in DAYS:
        rows = list(messy_rows(chance, members))
        chance.shuffle(rows)
        path = output / sample.audience / sample.file.format(day=day)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _table(chance, sample, rows).encode(sample.encoding, errors="replace")
        path.write_bytes(_gzipped(content) if path.suffix == ".gz" else content)
        stay = [person for person in members if chance.random() < 0.7]
        members = stay + [next(newcomers) for _ in range(sample.rows - len(stay))]


def _table(chance: random.Random, sample: SampleList, rows: list[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=sample.delimiter, lineterminator="\r\n")
    writer.writerow(sample.headers.values())
    for number, row in enumerate(rows, start=1):
        extra = {
            "tags": chance.choice(("", "vip, spring", "newsletter")),
            "member": f"M{number:06}",
            "note": chance.choice(("", "", "ruft zurück;\nab 17 Uhr", 'sagt "ja"')),
        }
        writer.writerow((row | extra)[field] for field in sample.headers)
    return text.getvalue()


def _gzipped(content: bytes) -> bytes:
    # Not by gzip, whose header names the system up to Python 3.12 and no longer from 3.13 on.
    return zlib.compress(content, level=9, wbits=16 + zlib.MAX_WBITS)


def _spaced(digits: str) -> str:
    return " ".join(digits[start : start + 3] for start in range(0, len(digits), 3))


def _roman(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.lower())
    return "".join(letter for letter in letters if "a" <= letter <= "z")


if __name__ == "__main__":
    for sample in LISTS:
        write(sample, OUTPUT)
