"""Maps the columns of a list to schema keys, by known headers or by ``source.columns``.

The known headers are those of Meta's customer file template, of the customer exports of Shopify,
Mailchimp, HubSpot and Klaviyo, and other common names. A header in Latin letters is compared by
its letters and digits alone: ``E-Mail Address`` is ``emailaddress``. A header in another script
is compared whole, because dropping its letters would make different headers equal.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mm_pipelines.identity import COLUMNS, IDENTIFIERS
from mm_pipelines.lists.errors import ListHeaderError

KNOWN_HEADERS: dict[str, tuple[str, ...]] = {
    "EMAIL": (
        "email", "emailaddress", "emailid", "mail", "emailaddr", "primaryemail", "customeremail",
        "contactemail", "useremail", "email1", "emailaddress1", "personalemail", "email2",
        "email3", "workemail", "emailsha256", "hashedemail",
    ),
    "PHONE": (
        "mobilephonenumber", "mobilephone", "mobilenumber", "mobile", "cellphone", "cellnumber",
        "cell", "phone", "phonenumber", "telephone", "telephonenumber", "tel", "primaryphone",
        "customerphone", "contactphone", "contactnumber", "smsphonenumber", "smsphone",
        "whatsappphonenumber", "whatsapp", "phone1", "phone2", "phone3", "homephone",
        "defaultaddressphone", "billingphone", "shippingphone", "workphone", "phonesha256",
        "hashedphone",
    ),
    "GEN": ("gen", "gender", "sex"),
    "DOBY": ("doby", "birthyear", "yearofbirth"),
    "DOBM": ("dobm", "birthmonth", "monthofbirth"),
    "DOBD": ("dobd", "dayofbirth"),
    "LN": ("ln", "lastname", "surname", "familyname", "lname", "last"),
    "FN": ("fn", "firstname", "givenname", "forename", "fname", "first"),
    "FI": ("fi", "firstinitial", "finitial"),
    "CT": ("ct", "city", "town", "cityname", "defaultaddresscity", "billingcity", "shippingcity"),
    "ST": (
        "st", "statecode", "provincecode", "state", "province", "stateregion", "stateprovince",
        "defaultaddressprovincecode", "region", "billingstate", "shippingstate",
    ),
    "ZIP": (
        "zip", "zipcode", "postalcode", "postcode", "zippostalcode", "zippostal",
        "defaultaddresszip", "billingzip", "shippingzip",
    ),
    "COUNTRY": (
        "countrycode", "country", "countryregion", "countryname", "countryregioncode",
        "defaultaddresscountrycode", "billingcountry", "shippingcountry", "cc",
    ),
    "MADID": ("madid", "mobileadvertiserid", "idfa", "aaid", "gaid", "advertisingid"),
    "EXTERN_ID": ("externid", "externalid"),
    "DOB": ("dob", "dateofbirth", "birthdate", "birthday"),
}  # fmt: skip
"""Per key its headers, the best first. A blank cell is filled from the next column of its key."""


# Personal values that no column name looks like: an e-mail address, a phone number, a hash.
_PERSONAL = re.compile(
    r"[^\s@]+@[^\s@]+\.[^\s@]+"
    r"|[+(]?(?:\d[\s().\-/]*){7,}"
    r"|[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}"
)
# A pivoted table may have dates and numbers among its column names.
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|(?:19|20)\d{6}")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Columns:
    """How a list's columns are read.

    Attributes:
        places: Per key the positions of its columns. The first column with a value counts.
        headers: Per key the headers of those columns.
        unrecognized: The headers that belong to no key.
        count: The number of columns in the header.
    """

    places: dict[str, tuple[int, ...]]
    headers: dict[str, tuple[str, ...]]
    unrecognized: tuple[str, ...]
    count: int

    @property
    def alternatives(self) -> dict[str, tuple[str, ...]]:
        """The keys that several columns map to, with the headers in the order of precedence."""
        return {key: names for key, names in self.headers.items() if len(names) > 1}


def match_columns(
    url: str, header: Sequence[str], explicit: Mapping[str, str] | None = None
) -> Columns:
    """Find the schema keys in a header.

    Args:
        url: The list, for messages.
        header: The column names as written in the list.
        explicit: ``source.columns`` of mm.yaml, schema key to header. If it is not empty, it is
            the whole mapping and no other column is read.

    Raises:
        ListHeaderError: The first line holds values instead of names, a named column is missing
            or ambiguous, or no column maps to EMAIL or PHONE. The message quotes nothing from the
            list: without a header row, the first line is a customer.
    """
    names = [name.strip() for name in header]
    if any(_is_personal(name) for name in names):
        raise ListHeaderError(url, "header", _NO_HEADER)
    places = _explicit(url, names, explicit) if explicit else _recognized(names)
    if not any(key in places for key in IDENTIFIERS):
        raise ListHeaderError(url, "header", _no_identifier(names, places))
    used = {place for column in places.values() for place in column}
    return Columns(
        places=places,
        headers={key: tuple(names[place] for place in column) for key, column in places.items()},
        unrecognized=tuple(name for place, name in enumerate(names) if place not in used),
        count=len(names),
    )


def recognized_key(header: str) -> str | None:
    """The key that a known header belongs to; None for any other header."""
    plain = plain_header(header)
    return next((key for key, known in KNOWN_HEADERS.items() if plain in known), None)


def _recognized(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    plain = [plain_header(name) for name in names]
    places = {
        key: tuple(place for wanted in known for place, name in enumerate(plain) if name == wanted)
        for key, known in KNOWN_HEADERS.items()
    }
    return {key: column for key, column in places.items() if column}


def find_column(url: str, names: Sequence[str], wanted: str, purpose: str) -> int:
    """The position of the column that mm.yaml names for a purpose.

    Raises:
        ListHeaderError: There is no such column, or there are several.
    """
    found = [place for place, name in enumerate(names) if name == wanted.strip()]
    plain = plain_header(wanted)
    # A name of signs alone has no plain form, so it equals nothing but itself.
    if not found and plain:
        found = [place for place, name in enumerate(names) if plain_header(name) == plain]
    if not found and _looks_headerless(names):
        raise ListHeaderError(url, "header", _NO_HEADER)
    if not found:
        fault = f"there is no column {wanted!r}, which mm.yaml names for {purpose}"
        raise ListHeaderError(url, "header", fault)
    if len(found) > 1:
        fault = f"the list has {len(found)} columns {wanted!r}, which mm.yaml names for {purpose}"
        raise ListHeaderError(url, "header", fault)
    return found[0]


def _explicit(
    url: str, names: Sequence[str], explicit: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    places: dict[str, tuple[int, ...]] = {}
    for key, wanted in explicit.items():
        if key not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise ListHeaderError(url, "columns", f"{key!r} is no schema key; the keys are {known}")
        places[key] = (find_column(url, names, wanted, key),)
    return places


_NO_HEADER = "the first line holds values, not column names; put a line of names above it"


def _no_identifier(names: Sequence[str], places: Mapping[str, tuple[int, ...]]) -> str:
    if _looks_headerless(names):
        return _NO_HEADER
    columns = "1 column" if len(names) == 1 else f"{len(names)} columns"
    found = f"only {', '.join(places)}" if places else "none"
    return (
        f"no column is recognized as EMAIL or PHONE ({columns}, {found} recognized); name them in "
        "mm.yaml under source.columns, or put a line of names above the values if there is none"
    )


def _is_personal(name: str) -> bool:
    return _PERSONAL.fullmatch(name) is not None and _DATE.fullmatch(name) is None


def _looks_headerless(names: Sequence[str]) -> bool:
    return any(_DATE.fullmatch(name) or _NUMBER.fullmatch(name) for name in names)


def plain_header(header: str) -> str:
    """The form that headers are compared in; empty for a name of signs alone."""
    decomposed = unicodedata.normalize("NFKD", header).casefold()
    if any(sign.isalnum() and not sign.isascii() for sign in decomposed):
        return " ".join(unicodedata.normalize("NFKC", header).casefold().split())
    return "".join(sign for sign in decomposed if sign.isascii() and sign.isalnum())
