"""Which column is which schema key: by the list's own header, or by what mm.yaml says.

The names are those of Meta's customer file template and of the customer exports of Shopify,
Mailchimp, HubSpot and Klaviyo, and what people write besides. A header is compared by its letters
and digits alone, so that ``E-Mail Address`` is ``emailaddress``.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mm_pipelines.identity import COLUMNS, IDENTIFIERS
from mm_pipelines.lists.errors import ListHeaderError

#: Per key the headers that mean it, the best first: a blank cell falls back on the next column.
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


@dataclass(frozen=True)
class Columns:
    """How a list's columns are read.

    Attributes:
        places: Per key the places of its columns, the first with a value counts.
        headers: Per key the headers of those columns.
        unrecognised: The headers that are no key's.
        count: How many columns the header has.
    """

    places: dict[str, tuple[int, ...]]
    headers: dict[str, tuple[str, ...]]
    unrecognised: tuple[str, ...]
    count: int


def match_columns(
    url: str, header: Sequence[str], explicit: Mapping[str, str] | None = None
) -> Columns:
    """Find the schema keys in a header.

    Args:
        url: The list, for messages.
        header: The column names as they stand there.
        explicit: ``source.columns`` of mm.yaml, schema key to header; if there is any, it is the
            whole mapping and no other column is read.

    Raises:
        ListHeaderError: A named column is not there or stands there twice, or no column holds
            EMAIL or PHONE.
    """
    names = [name.strip() for name in header]
    places = _explicit(url, names, explicit) if explicit else _recognised(names)
    if not any(key in places for key in IDENTIFIERS):
        raise ListHeaderError(url, "header", _no_identifier(names))
    used = {place for column in places.values() for place in column}
    return Columns(
        places=places,
        headers={key: tuple(names[place] for place in column) for key, column in places.items()},
        unrecognised=tuple(name for place, name in enumerate(names) if place not in used),
        count=len(names),
    )


def recognised_key(header: str) -> str | None:
    """The key that a header means; None if it means none."""
    plain = _plain(header)
    return next((key for key, known in KNOWN_HEADERS.items() if plain in known), None)


def _recognised(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    plain = [_plain(name) for name in names]
    places = {
        key: tuple(place for wanted in known for place, name in enumerate(plain) if name == wanted)
        for key, known in KNOWN_HEADERS.items()
    }
    return {key: column for key, column in places.items() if column}


def _explicit(
    url: str, names: Sequence[str], explicit: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    places: dict[str, tuple[int, ...]] = {}
    for key, wanted in explicit.items():
        if key not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise ListHeaderError(url, "columns", f"{key!r} is no schema key; the keys are {known}")
        found = [place for place, name in enumerate(names) if name == wanted.strip()]
        found = found or [
            place for place, name in enumerate(names) if _plain(name) == _plain(wanted)
        ]
        if not found:
            fault = f"there is no column {wanted!r}, which mm.yaml names for {key}"
            raise ListHeaderError(url, "header", fault)
        if len(found) > 1:
            fault = f"the column {wanted!r}, which mm.yaml names for {key}, stands there twice"
            raise ListHeaderError(url, "header", fault)
        places[key] = (found[0],)
    return places


def _no_identifier(names: Sequence[str]) -> str:
    if any("@" in name for name in names):
        # Not named: they are somebody's values.
        return "the first line holds values, not column names; put a line of names above it"
    shown = ", ".join(repr(name) for name in names[:20])
    return (
        f"no column is known to hold EMAIL or PHONE among {shown}; "
        "name them in mm.yaml under source.columns"
    )


def _plain(header: str) -> str:
    decomposed = unicodedata.normalize("NFKD", header).lower()
    return "".join(sign for sign in decomposed if sign.isascii() and sign.isalnum())
