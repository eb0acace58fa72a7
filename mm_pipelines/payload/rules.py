"""The version of the rules by which a list becomes a payload."""

from importlib.metadata import version

RULES = 1
"""Raise it with every change that gives a value another hash, or keeps or rejects other rows."""


def rules_version() -> str:
    """The version of the rules; older payloads are shown as stale.

    An upgrade of libphonenumber's metadata can change the hash of a phone number, so it is part of
    the version.
    """
    return f"{RULES}+phonenumbers-{version('phonenumbers')}"
