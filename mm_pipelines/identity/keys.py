"""The schema keys of a payload, in the order in which we always send them (graph-api-facts 2.7)."""

#: Every key that a row can have at Meta.
KEYS = (
    "EMAIL", "PHONE", "GEN", "DOBY", "DOBM", "DOBD", "LN", "FN", "FI", "CT", "ST", "ZIP",
    "COUNTRY", "MADID", "EXTERN_ID",
)  # fmt: skip

#: A row needs one of these, or it is nobody (Meta's guide, step 2).
IDENTIFIERS = ("EMAIL", "PHONE")

#: One date of birth, from which DOBY, DOBM and DOBD are made. It is ours, not Meta's.
DATE_OF_BIRTH = "DOB"

#: What a column of a list can be.
COLUMNS = (*KEYS, DATE_OF_BIRTH)

#: Uploaded as they are (graph-api-facts 2.7).
PLAIN = frozenset({"MADID", "EXTERN_ID"})
