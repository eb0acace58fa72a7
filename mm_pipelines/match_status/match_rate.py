"""Judges the match rate of a day: by the audience's own history, or by Meta's typical range."""

from mm_pipelines.match_status.computation import MatchStatus

BELOW_USUAL = 0.75
"""A rate below this share of the usual one is a warning."""

LOWEST_TYPICAL = 0.20
"""Meta calls a match rate of 20 to 70 % typical (docs/graph-api.md#uploading-users)."""

FEWEST_PEOPLE = 500
"""Fewer people than this are not judged without a history: Meta's bounds are too coarse."""


def low_rate(status: MatchStatus, usual: float | None) -> str | None:
    """What is low about a match rate and its likely causes; None if it is not low or not known.

    Args:
        status: The day's status.
        usual: The audience's median rate; None if it has too short a history.
    """
    if usual is not None:
        rate = status.match_rate_lower
        if rate is None or rate >= BELOW_USUAL * usual:
            return None
        return (
            f"The match rate is {rate:.1%}; the median is {usual:.1%}. Check what changed in the "
            "list: phone numbers without country code, another source, old rows."
        )
    rate = status.match_rate_upper
    if rate is None or rate >= LOWEST_TYPICAL:
        return None
    if status.status != "complete" or status.people_acknowledged < FEWEST_PEOPLE:
        return None
    return (
        f"At most {rate:.1%} of {status.people_acknowledged:,} people matched; Meta calls "
        f"{LOWEST_TYPICAL:.0%} to 70% typical. Likely causes: phone numbers without country code "
        "(set default_country), values hashed twice or hashed before normalizing, or a column "
        "mapped to the wrong key (see `columns` in the metadata of customer_list). `mm "
        "normalize` shows each step for one value."
    )
