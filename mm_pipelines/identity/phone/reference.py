"""The definition of a phone number's normalized form, for one value at a time.

The ``phonenumbers`` package (libphonenumber) reads the number. This module adds the order in which
its possible readings are tried; the columnar code must give the same result for every value.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

import phonenumbers
from phonenumbers import CountryCodeSource, PhoneNumber, ValidationResult

Spelling = Literal["international", "national"]

_HASHED = re.compile(r"[0-9a-fA-F]{64}")
_FIRST_SIGN = re.compile(r"[+\uff0b\d]")
_ZERO_ZERO = re.compile(r"^0[^0-9+]*0")
_DECIMAL_ZEROS = re.compile(r"^([^0-9]*[0-9]+)\.0+([\s\"']*)$")
"""A number column that became decimal: one run of digits, then nothing but zeros."""
_PLAIN = re.compile(r"[0-9 ().\-/]+")
"""What the columnar code reads as an integer; only such numbers count for a list's convention."""
_SCIENTIFIC = re.compile(r"^[\s='\"+]*[0-9]+([.,][0-9]+)?[eE]\+?[0-9]{1,3}[\s\"']*$")


@dataclass(frozen=True, slots=True)
class PhoneReadings:
    """The normalized forms that one value may have: digits with the country code, or None.

    Attributes:
        international: The form where the list writes bare numbers with their country code, which
            is also the rule for a list without a convention.
        national: The form where the list writes bare numbers without trunk prefix.
        libphonenumber: The form that libphonenumber alone reads. Earlier versions used it.
    """

    international: str | None
    national: str | None
    libphonenumber: str | None

    @property
    def disputed(self) -> bool:
        """Whether the value alone cannot decide, so that the list's convention does."""
        return self.international != self.national

    def distinct(self) -> tuple[str, ...]:
        """The different forms, the one without a convention first."""
        forms = (self.international, self.national, self.libphonenumber)
        return tuple(dict.fromkeys(form for form in forms if form))


def normalize_phone(value: str, region: str, *, national: bool = False) -> str | None:
    """The digits of the number with its country code, or None if it cannot be used.

    Args:
        value: The cell's text; 64 hex digits are a hash, which is returned in lower case.
        region: Upper-case alpha-2 code, ``""`` where none is known.
        national: Whether the list writes the region's bare numbers without their country code
            (``PhoneConvention``). It matters only for a number that may be either.
    """
    readings = read_phone(value, region)
    return readings.national if national else readings.international


def read_phone(value: str, region: str) -> PhoneReadings:
    """Read one phone number in every way that counts.

    The order of decision: a plus, ``00`` or the region's own international prefix is
    international; a trunk prefix is national; a number that does not begin with the region's
    country code is national, and international if it is no possible national number; for one that
    begins with the country code the only valid reading counts; if both or neither are valid, the
    list's convention decides.

    Args:
        value: The cell's text; 64 hex digits are a hash, whose forms are all itself.
        region: Upper-case alpha-2 code, ``""`` where none is known.
    """
    text = value.strip()
    if _HASHED.fullmatch(text):
        return _same(text.lower())
    if is_in_scientific_notation(text):
        return _same(None)
    text = _DECIMAL_ZEROS.sub(r"\1\2", text)
    own = _parse(text, region or None)
    abroad = _parse(_as_international(text), None)
    alone = _form(own or abroad)
    if region not in phonenumbers.SUPPORTED_REGIONS:
        return _same(alone)
    own = _with_trunk_prefix(text, region, own)
    if own and abroad:
        international, national = _by_order(text, region, own, abroad)
        return PhoneReadings(_form(international), _form(national), alone)
    form = _form(own or abroad)
    return PhoneReadings(form, form, alone)


def bare_spelling(value: str, region: str) -> Spelling | None:
    """How a number without plus and trunk prefix is written, if it has only one valid reading.

    Returns:
        ``international`` where it bears the region's country code, ``national`` where it lacks the
        trunk prefix; None for every other number.
    """
    text = _DECIMAL_ZEROS.sub(r"\1\2", value)
    if region not in phonenumbers.SUPPORTED_REGIONS or not _PLAIN.fullmatch(text):
        return None
    digits = phonenumbers.normalize_digits_only(text)
    trunk_prefix = phonenumbers.ndd_prefix_for_region(region, True)
    if digits.startswith("00") or (trunk_prefix and digits.startswith(trunk_prefix)):
        return None
    own, abroad = _parse(text, region), _parse(_as_international(text), None)
    if _by_prefix(own):
        return None
    country_code = phonenumbers.country_code_for_region(region)
    international = (
        abroad is not None
        and abroad.country_code == country_code
        and phonenumbers.is_valid_number(abroad)
    )
    national = (
        own is not None
        and phonenumbers.national_significant_number(own) == digits
        and phonenumbers.is_valid_number(own)
    )
    if international == national:
        return None
    return "international" if international else "national"


def is_in_scientific_notation(text: str) -> bool:
    """Whether a spreadsheet wrote the number as ``4.91511E+12``, which loses its last digits."""
    return _SCIENTIFIC.match(text) is not None


def _with_trunk_prefix(text: str, region: str, own: PhoneNumber | None) -> PhoneNumber | None:
    """The region's own reading, mended where libphonenumber takes a digit for a carrier code.

    Colombia's ``0 321 1649530`` is an example: it reads ``03`` as trunk prefix and carrier code.
    """
    written = _from_first_digit(text)
    trunk_prefix = phonenumbers.ndd_prefix_for_region(region, True)
    if not written or not trunk_prefix or _starts_with_zero_zero(text) or _by_prefix(own):
        return own
    prefix = re.match("[^0-9+]*".join(trunk_prefix), written)
    if prefix is None:
        return own
    country_code = phonenumbers.country_code_for_region(region)
    national = _parse(f"+{country_code}{written[prefix.end() :]}", None)
    if national is None or not phonenumbers.is_valid_number(national):
        return own
    return own if own and phonenumbers.is_valid_number(own) else national


def _by_prefix(number: PhoneNumber | None) -> bool:
    """Whether the region's own international prefix precedes the country code."""
    source = number.country_code_source if number else None
    return source == CountryCodeSource.FROM_NUMBER_WITH_IDD


def _by_order(
    text: str, region: str, own: PhoneNumber, abroad: PhoneNumber
) -> tuple[PhoneNumber, PhoneNumber]:
    """The number if the list's convention is international, and if it is national."""
    by_prefix = _by_prefix(own)
    if _starts_with_zero_zero(text):
        international = [abroad, own] if by_prefix else [abroad]
        chosen = next(filter(phonenumbers.is_valid_number, international), abroad)
        return chosen, chosen
    if by_prefix or abroad.country_code != phonenumbers.country_code_for_region(region):
        return own, own
    valid_own, valid_abroad = map(phonenumbers.is_valid_number, (own, abroad))
    if valid_own != valid_abroad:
        valid = own if valid_own else abroad
        return valid, valid
    return abroad, own


def _same(form: str | None) -> PhoneReadings:
    return PhoneReadings(form, form, form)


def _form(number: PhoneNumber | None) -> str | None:
    if number is None:
        return None
    return f"{number.country_code}{phonenumbers.national_significant_number(number)}"


def _parse(text: str | None, region: str | None) -> PhoneNumber | None:
    if text is None:
        return None
    try:
        number = phonenumbers.parse(text, region, keep_raw_input=True)
    except phonenumbers.NumberParseException:
        return None
    # Not is_valid_number: the number of Meta's own example is possible, but not assigned.
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return None
    return number


def _as_international(text: str) -> str | None:
    """The text with a plus sign before its digits; None if it has one or has no digits."""
    digits = _from_first_digit(text)
    return None if digits is None else "+" + _ZERO_ZERO.sub("", digits)


def _starts_with_zero_zero(text: str) -> bool:
    return _ZERO_ZERO.match(_from_first_digit(text) or "") is not None


def _from_first_digit(text: str) -> str | None:
    first = _FIRST_SIGN.search(text)
    if first is None or first.group() in "+\uff0b":
        return None
    return "".join(
        str(unicodedata.decimal(sign)) if sign.isdecimal() else sign
        for sign in text[first.start() :]
    )
