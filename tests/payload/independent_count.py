"""What the sample lists hold, counted row by row in plain Python.

Written from docs/lists.md alone, with ``csv`` and ``phonenumbers``, and without any of our code, so
that a mistake in ours shows. Run as a script it prints the counts.
"""

import csv
import gzip
import io
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import phonenumbers

EXAMPLES = Path(__file__).parents[2] / "examples"
DAYS = ("2026-11-18", "2026-11-19", "2026-11-20")
BLANK = {"", "null", "n/a", "-", "#n/a", "none", "nan"}
COUNTRIES = {
    "us": "US", "usa": "US", "united states": "US", "gb": "GB", "uk": "GB", "united kingdom": "GB",
    "gbr": "GB", "de": "DE", "germany": "DE", "deutschland": "DE", "deu": "DE", "fr": "FR",
    "france": "FR", "fra": "FR", "it": "IT", "italy": "IT", "italia": "IT", "ita": "IT",
    "au": "AU", "australia": "AU", "aus": "AU", "vn": "VN", "viet nam": "VN", "vietnam": "VN",
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """How one audience's lists are read, and the headers of what is counted."""

    audience: str
    name: str
    encoding: str
    delimiter: str
    default_country: str | None
    email: str
    phone: str
    country: str


SAMPLES = (
    Sample("acme_newsletter", "{}.csv", "utf-8-sig", ",", "US",
           "Email Address", "Phone Number", "Country"),
    Sample("acme_loyalty", "{}.tsv.gz", "utf-8", "\t", None, "E-mail", "Mobile", "Country"),
    Sample("globex_customers", "{}.csv", "cp1252", ";", "DE", "E-Mail", "Telefon", "Land"),
)  # fmt: skip


@dataclass
class Count:
    """What became of one list's rows."""

    read: int = 0
    rejected: int = 0
    merged: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    people: set[tuple[str, str]] = field(default_factory=set)


def count(sample: Sample, day: str) -> Count:
    """Count one day's list."""
    path = EXAMPLES / "customers" / sample.audience / sample.name.format(day)
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    text = io.StringIO(content.decode(sample.encoding), newline="")
    result = Count()
    for row in csv.DictReader(text, delimiter=sample.delimiter):
        result.read += 1
        written = row[sample.country].strip().lower()
        country = COUNTRIES.get(written) if _given(written) else sample.default_country
        email = _email(row[sample.email])
        phone = _phone(row[sample.phone], country)
        reasons = []
        if not email and not phone:
            if _given(row[sample.email]):
                reasons.append("invalid_email")
            if _given(row[sample.phone]):
                digits_first = re.search(r"[+0-9]", row[sample.phone])
                national = digits_first is not None and digits_first.group() != "+"
                without = country is None and national
                reasons.append("phone_without_country" if without else "invalid_phone")
            for reason in reasons or ["no_identifier"]:
                result.reasons[reason] = result.reasons.get(reason, 0) + 1
            result.rejected += 1
        elif (email, phone) in result.people:
            result.merged += 1
        else:
            result.people.add((email, phone))
    return result


def _given(cell: str) -> bool:
    return cell.strip().lower() not in BLANK


def _email(cell: str) -> str:
    address = unicodedata.normalize("NFC", cell.strip().lower())
    user, at, domain = address.partition("@")
    labels = domain.split(".")
    sound = user and at and "@" not in domain and len(labels) > 1 and all(labels)
    return address if sound and not re.search(r"\s", address) else ""


def _phone(cell: str, country: str | None) -> str:
    own, abroad = _possible(cell.strip(), country), None
    digits = re.search(r"[+0-9].*", cell, re.DOTALL)
    if digits and not digits.group().startswith("+"):
        abroad = _possible("+" + re.sub(r"^0[^0-9+]*0", "", digits.group()), None)
    number = own or abroad
    if own and abroad and own.country_code == abroad.country_code:
        # Bare digits that begin with the country code: the only valid reading, else international.
        national = phonenumbers.is_valid_number(own) and not phonenumbers.is_valid_number(abroad)
        number = own if national else abroad
    if number is None:
        return ""
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:]


def _possible(text: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    possible = phonenumbers.is_possible_number_with_reason(number)
    return number if possible == phonenumbers.ValidationResult.IS_POSSIBLE else None


if __name__ == "__main__":
    for one in SAMPLES:
        for date in DAYS:
            found = count(one, date)
            print(
                one.audience, date, f"read {found.read}", f"accepted {len(found.people)}",
                f"merged {found.merged}", f"rejected {found.rejected}", found.reasons,
            )  # fmt: skip
