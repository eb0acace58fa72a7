"""The schema keys of a payload, in the order in which they are sent."""

#: Every key that a row can have at Meta.
KEYS = (
    "EMAIL", "PHONE", "GEN", "DOBY", "DOBM", "DOBD", "LN", "FN", "FI", "CT", "ST", "ZIP",
    "COUNTRY", "MADID", "EXTERN_ID",
)  # fmt: skip

#: A row without one of these identifies no one and is rejected (Meta's guide, step 2).
IDENTIFIERS = ("EMAIL", "PHONE")

#: One date of birth, from which DOBY, DOBM and DOBD are made. It is not a key of Meta's.
DATE_OF_BIRTH = "DOB"

#: The keys that a column of a list can hold.
COLUMNS = (*KEYS, DATE_OF_BIRTH)

#: Keys that are uploaded in plain.
PLAIN = frozenset({"MADID", "EXTERN_ID"})
