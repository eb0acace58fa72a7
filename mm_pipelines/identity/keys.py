"""The schema keys of a payload, in the order in which they are sent."""

KEYS = (
    "EMAIL", "PHONE", "GEN", "DOBY", "DOBM", "DOBD", "LN", "FN", "FI", "CT", "ST", "ZIP",
    "COUNTRY", "MADID", "EXTERN_ID",
)  # fmt: skip
"""Every key that a row can have at Meta."""

IDENTIFIERS = ("EMAIL", "PHONE")
"""A row without one of these identifies no one and is rejected (Meta's guide, step 2)."""

DATE_OF_BIRTH = "DOB"
"""One date of birth, from which DOBY, DOBM and DOBD are made. It is not a key of Meta's."""

COLUMNS = (*KEYS, DATE_OF_BIRTH)
"""The keys that a column of a list can hold."""

PLAIN = frozenset({"MADID", "EXTERN_ID"})
"""Keys that are uploaded in plain."""
