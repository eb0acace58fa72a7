"""What a phone number is, value by value, by the ``phonenumbers`` package (design 7.11).

This is the definition: the columnar code must equal it, and calls it for what it cannot decide.
"""

import re
import unicodedata

import phonenumbers
from phonenumbers import ValidationResult

_FIRST_SIGN = re.compile(r"[+\uff0b\d]")
_INTERNATIONAL_PREFIX = re.compile(r"^0[^0-9+]*0")
_HASHED = re.compile(r"[0-9a-fA-F]{64}")


def normalise_phone(value: str, region: str) -> str | None:
    """The digits of the number with its country code, or None if it cannot be used.

    The number is read as one of the region's; what is no possible number there, or has no region,
    is read as international, with or without the prefix ``00``.

    Args:
        value: The number as it stands in the list; 64 hex digits are a hash, kept in lower case.
        region: Upper-case alpha-2 code, ``""`` where none is known.
    """
    text = value.strip()
    if _HASHED.fullmatch(text):
        return text.lower()
    return _possible(text, region or None) or _possible(_as_international(text), None)


def _possible(text: str | None, region: str | None) -> str | None:
    if text is None:
        return None
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    # Not is_valid_number: the number in Meta's own example is possible, but assigned to nobody.
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return None
    return f"{number.country_code}{phonenumbers.national_significant_number(number)}"


def _as_international(text: str) -> str | None:
    first = _FIRST_SIGN.search(text)
    if first is None or first.group() in "+\uff0b":
        return None
    digits = "".join(
        str(unicodedata.decimal(sign)) if sign.isdecimal() else sign
        for sign in text[first.start() :]
    )
    return "+" + _INTERNATIONAL_PREFIX.sub("", digits)
