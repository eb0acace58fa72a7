"""How a list writes bare phone numbers: with their country code, or without their trunk prefix.

A bare number has neither a plus nor a trunk prefix. In some countries, Germany among them, it may
have two valid readings; what the rest of the list does then decides.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

from mm_pipelines.identity.phone.reference import Spelling


@dataclass(frozen=True)
class PhoneConvention:
    """The convention of one list by region.

    Attributes:
        by_region: Upper-case alpha-2 code to the spelling of most bare numbers of the region that
            have only one valid reading. A region without such numbers, or with a tie, is absent
            and counts as ``international``.
    """

    by_region: dict[str, Spelling] = field(default_factory=dict)

    @property
    def national_regions(self) -> tuple[str, ...]:
        """The regions whose bare numbers lack their country code."""
        return tuple(
            region for region, spelling in sorted(self.by_region.items()) if spelling == "national"
        )

    def to_json(self) -> str:
        """The convention as one JSON object, with sorted keys."""
        return json.dumps(self.by_region, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "PhoneConvention":
        """The inverse of ``to_json``.

        Raises:
            ValueError: The text is no such object.
        """
        by_region = json.loads(text)
        if not isinstance(by_region, dict) or not set(by_region.values()) <= _SPELLINGS:
            raise ValueError("a phone convention maps regions to 'international' or 'national'")
        return cls(by_region)


@dataclass(frozen=True)
class PhoneSpellings:
    """Counts of bare phone numbers in a list or a part of one; parts add up with ``+``.

    Attributes:
        international: Region to the numbers that bear the country code, by their only valid
            reading.
        national: Region to the numbers that lack the trunk prefix, by their only valid reading.
        disputed: Region to the rows that the list's convention decides.
    """

    international: Counter[str] = field(default_factory=Counter)
    national: Counter[str] = field(default_factory=Counter)
    disputed: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "PhoneSpellings") -> "PhoneSpellings":
        return PhoneSpellings(
            self.international + other.international,
            self.national + other.national,
            self.disputed + other.disputed,
        )

    def convention(self) -> PhoneConvention:
        """The spelling of the majority in each region."""
        by_region: dict[str, Spelling] = {}
        for region in sorted(self.international.keys() | self.national.keys()):
            international, national = self.international[region], self.national[region]
            if international != national:
                by_region[region] = "international" if international > national else "national"
        return PhoneConvention(by_region)


_SPELLINGS = {"international", "national"}
