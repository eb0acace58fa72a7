"""PHONE: the digits of the number with its country code, as libphonenumber reads it."""

from mm_pipelines.identity.phone.columns import (
    by_convention,
    count_phone_spellings,
    is_phone_in_scientific_notation,
    normalize_phones,
    phone_readings,
)
from mm_pipelines.identity.phone.convention import PhoneConvention, PhoneSpellings
from mm_pipelines.identity.phone.reference import PhoneReadings, normalize_phone, read_phone

__all__ = [
    "PhoneConvention",
    "PhoneReadings",
    "PhoneSpellings",
    "by_convention",
    "count_phone_spellings",
    "is_phone_in_scientific_notation",
    "normalize_phone",
    "normalize_phones",
    "phone_readings",
    "read_phone",
]
