"""Finds the columns of a list that record consent, and which rows have it.

Meta requires that a list contains only people who agreed. The known columns are those of the
customer exports of Shopify, Mailchimp, HubSpot and Klaviyo; ``source.consent`` of mm.yaml names
any other.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from mm_pipelines.config import ConsentColumn
from mm_pipelines.lists.headers import find_column, plain_header

ConsentSetting = ConsentColumn | Literal["ignore"] | None

_YES = ("yes", "true", "1", "subscribed")
_ANY_VALUE: tuple[str, ...] = ()


@dataclass(frozen=True)
class _KnownColumn:
    """A column of an export: the cells that grant consent, or that withdraw it.

    Attributes:
        values: Empty for a column in which any value counts.
        several: Whether a cell may list several values, of which one is enough.
    """

    export: str
    values: tuple[str, ...] = _YES
    grants: bool = True
    several: bool = False


# A billing status ("marketing contact") or the absence of an opt-out is not consent, so those
# columns can only withdraw it.
_KNOWN_COLUMNS = {
    "acceptsemailmarketing": _KnownColumn("Shopify"),
    "acceptssmsmarketing": _KnownColumn("Shopify"),
    "acceptsmarketing": _KnownColumn("Shopify"),
    "emailmarketingconsent": _KnownColumn("Klaviyo"),
    "smsmarketingconsent": _KnownColumn("Klaviyo"),
    "consent": _KnownColumn(
        "Klaviyo", (*_YES, "email", "sms", "web", "mobile", "directmail"), several=True
    ),
    "legalbasisforprocessingcontactsdata": _KnownColumn(
        "HubSpot", ("freely given consent from contact",), several=True
    ),
    "hslegalbasis": _KnownColumn("HubSpot", ("freely given consent from contact",), several=True),
    "unsubscribedfromallemail": _KnownColumn("HubSpot", grants=False),
    "optedoutofallemail": _KnownColumn("HubSpot", grants=False),
    "hsemailoptout": _KnownColumn("HubSpot", grants=False),
    "marketingcontactstatus": _KnownColumn(
        "HubSpot", ("non-marketing contact", "false"), grants=False
    ),
}
_KNOWN_IN_MAILCHIMP = {
    "status": _KnownColumn("Mailchimp", ("subscribed",)),
    "unsubtime": _KnownColumn("Mailchimp", _ANY_VALUE, grants=False),
    "cleantime": _KnownColumn("Mailchimp", _ANY_VALUE, grants=False),
}
_MAILCHIMP_HEADERS = frozenset(
    {"optintime", "optinip", "confirmtime", "confirmip", "lastchanged", "leid", "euid"}
)


@dataclass(frozen=True)
class _Signal:
    place: int
    header: str
    pattern: str
    grants: bool


@dataclass(frozen=True)
class ConsentColumns:
    """The columns that record consent in one list.

    Attributes:
        source: What named them: ``mm.yaml``, the exports that they are known from, ``ignored``
            for ``source.consent: ignore``, or ``none``.
    """

    source: str
    signals: tuple[_Signal, ...] = ()

    @property
    def headers(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(signal.header for signal in self.signals)

    @property
    def places(self) -> frozenset[int]:
        """The positions of the columns."""
        return frozenset(signal.place for signal in self.signals)

    @property
    def recorded(self) -> bool:
        """Whether a column records who agreed; one that records only opt-outs does not."""
        return any(signal.grants for signal in self.signals)

    @property
    def agreed(self) -> pl.Expr:
        """Whether a row has consent, of the text columns named by their place.

        One column that grants consent is enough, because each belongs to a channel. One that
        withdraws it is enough too.
        """
        granted = [_holds(signal) for signal in self.signals if signal.grants]
        withdrawn = [_holds(signal) for signal in self.signals if not signal.grants]
        agreed = pl.any_horizontal(granted) if granted else pl.lit(value=True)
        return agreed & ~pl.any_horizontal(withdrawn) if withdrawn else agreed


def match_consent(url: str, header: Sequence[str], setting: ConsentSetting) -> ConsentColumns:
    """Find the columns of a header that record consent.

    Args:
        url: The list, for messages.
        header: The column names as written in the list.
        setting: ``source.consent`` of mm.yaml; None: known columns are recognized.

    Raises:
        ListHeaderError: The column that mm.yaml names is missing or ambiguous.
    """
    names = [name.strip() for name in header]
    if setting == "ignore":
        return ConsentColumns("ignored")
    if setting is not None:
        place = find_column(url, names, setting.column, "consent")
        pattern = _whole_cell([re.escape(value) for value in setting.yes])
        return ConsentColumns("mm.yaml", (_Signal(place, names[place], pattern, grants=True),))
    found = list(_recognized(names))
    exports = dict.fromkeys(known.export for _, known in found)
    signals = tuple(
        _Signal(place, names[place], _pattern(known), known.grants) for place, known in found
    )
    return ConsentColumns(", ".join(exports) or "none", signals)


def is_consent_header(header: str) -> bool:
    """Whether a column of this name records consent in any list."""
    return plain_header(header) in _KNOWN_COLUMNS


def _recognized(names: Sequence[str]) -> Iterator[tuple[int, _KnownColumn]]:
    plain = [plain_header(name) for name in names]
    mailchimp = "memberrating" in plain or len(_MAILCHIMP_HEADERS.intersection(plain)) > 1
    known = _KNOWN_COLUMNS | (_KNOWN_IN_MAILCHIMP if mailchimp else {})
    for place, name in enumerate(plain):
        if name in known:
            yield place, known[name]


def _holds(signal: _Signal) -> pl.Expr:
    return pl.col(str(signal.place)).str.contains(signal.pattern)


def _pattern(known: _KnownColumn) -> str:
    if not known.values:
        return r"\S"
    values = [re.escape(value) for value in known.values]
    if known.several:
        # Values between commas, as in a list of JSON, or between semicolons, as HubSpot writes.
        quote = r"""[\s"']*"""
        return rf"(?i)(?:^|[\[,;]){quote}(?:{'|'.join(values)}){quote}(?:$|[\],;])"
    return _whole_cell(values)


def _whole_cell(patterns: Sequence[str]) -> str:
    return rf"(?i)^\s*(?:{'|'.join(patterns)})\s*$"
