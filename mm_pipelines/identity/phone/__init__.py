"""PHONE: the digits of the number with its country code, as libphonenumber reads it."""

from mm_pipelines.identity.phone.columns import normalise_phones
from mm_pipelines.identity.phone.reference import normalise_phone

__all__ = ["normalise_phone", "normalise_phones"]
