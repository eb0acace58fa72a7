"""COUNTRY: the ISO 3166-1 alpha-2 code in lower case, from a code or a name."""

import hashlib
import re
import unicodedata
from functools import cache

import polars as pl

from mm_pipelines.identity.cells import outcome

_CODE_LETTERS = 2

_NOT_IN_ISO = ("ac", "ta", "xk")
"""Codes that ISO 3166 does not assign, but CLDR and libphonenumber use: Ascension, Tristan da Cunha
and Kosovo."""

_OF_A_REGION = re.compile(r"_([A-Z]{2}|\d{3})(_|$)")
"""CLDR's locales of a language in one region repeat the language's own names."""

_ALSO_CALLED = {
    "uk": "gb", "greatbritain": "gb", "britain": "gb", "england": "gb", "scotland": "gb",
    "wales": "gb", "northernireland": "gb", "unitedkingdomofgreatbritain": "gb",
    "america": "us", "estadosunidos": "us",
    "russia": "ru", "southkorea": "kr", "korea": "kr", "republicofkorea": "kr", "northkorea": "kp",
    "vietnam": "vn", "iran": "ir", "syria": "sy", "laos": "la", "bolivia": "bo", "tanzania": "tz",
    "venezuela": "ve", "moldova": "md", "czechrepublic": "cz", "holland": "nl",
    "thenetherlands": "nl", "ivorycoast": "ci", "capeverde": "cv", "swaziland": "sz",
    "macedonia": "mk", "burma": "mm", "turkey": "tr", "brunei": "bn", "taiwan": "tw",
    "palestine": "ps", "vatican": "va", "vaticancity": "va", "easttimor": "tl", "micronesia": "fm",
    "hongkongsar": "hk", "macau": "mo", "macaosar": "mo", "reunionisland": "re",
    "democraticrepublicofthecongo": "cd", "drcongo": "cd", "congokinshasa": "cd",
    "republicofthecongo": "cg", "congobrazzaville": "cg", "republicofireland": "ie",
    "thephilippines": "ph", "thebahamas": "bs", "thegambia": "gm", "stlucia": "lc",
    "stvincent": "vc", "stkittsandnevis": "kn", "trinidad": "tt", "bosnia": "ba", "antigua": "ag",
    "falklandislands": "fk", "britishvirginislands": "vg", "usvirginislands": "vi",
    "mainlandchina": "cn", "prc": "cn", "chinamainland": "cn", "cotedivoire": "ci",
    "deutschland": "de", "allemagne": "de", "espana": "es", "italia": "it", "brasil": "br",
    "osterreich": "at", "schweiz": "ch", "suisse": "ch", "svizzera": "ch", "nederland": "nl",
    "belgie": "be", "belgique": "be", "polska": "pl", "sverige": "se", "norge": "no",
    "danmark": "dk", "suomi": "fi", "ceskarepublika": "cz", "magyarorszag": "hu",
    "romania": "ro", "uae": "ae", "ksa": "sa", "turkiye": "tr", "mexico": "mx",
}  # fmt: skip
"""Names that people write and ISO 3166 does not list."""


def country(value: pl.Expr) -> pl.Expr:
    """The alpha-2 code in lower case, from alpha-2, alpha-3 or a name of the country."""
    return outcome(value, value.map_batches(_codes, return_dtype=pl.String))


def region_of(country: pl.Expr) -> pl.Expr:
    """The alpha-2 code of a normalized COUNTRY, hashed ones included; ``""`` if there is none.

    A list hashed beforehand may still hold plain phone numbers. There are few countries, so the
    hash of each is known.
    """
    code = country.fill_null("").replace(_codes_by_hash())
    return pl.when(code.str.len_bytes() == _CODE_LETTERS).then(code).otherwise(pl.lit(""))


def country_code(name: str) -> str | None:
    """The lower-case alpha-2 code of one country's code or name; None if it is no country."""
    key = _letters(name)
    countries = _countries()
    code = countries.get(key) or countries.get(key.removeprefix("the"))
    return code or (_names_of_all_languages().get(key) if key else None)


def _codes(values: pl.Series) -> pl.Series:
    distinct = values.unique().drop_nulls()
    codes = [country_code(name) for name in distinct]
    return values.replace_strict(distinct, pl.Series(codes, dtype=pl.String), default=None)


def _letters(name: str) -> str:
    """The letters of any script in lower case, without accents, marks of scripts kept."""
    decomposed = unicodedata.normalize("NFKD", name.replace("&", " and ").casefold())
    return "".join(
        sign
        for sign in decomposed
        if unicodedata.category(sign)[0] in "LM" and not unicodedata.combining(sign)
    )


@cache
def _countries() -> dict[str, str]:
    # pycountry reads its JSON at its first use; importing this package must not.
    import pycountry

    codes = {}
    for entry in pycountry.countries:
        code = entry.alpha_2.lower()
        for attribute in ("name", "official_name", "common_name", "alpha_3", "alpha_2"):
            name = getattr(entry, attribute, None)
            if name:
                codes[_letters(name)] = code
    return codes | _ALSO_CALLED | {code: code for code in _NOT_IN_ISO}


@cache
def _names_of_all_languages() -> dict[str, str]:
    """CLDR's names of countries by their letters; names of more than one country are left out.

    Reading them takes half a second and 150 MB, so it happens only when the list of ISO 3166 does
    not have a name.
    """
    from babel import localedata

    countries = set(_countries().values())
    codes: dict[str, set[str]] = {}
    for locale in localedata.locale_identifiers():
        if _OF_A_REGION.search(locale):
            continue
        territories = localedata.load(locale, merge_inherited=False).get("territories", {})
        for code, name in territories.items():
            if code.lower() in countries:
                codes.setdefault(_letters(name), set()).add(code.lower())
    return {name: code for name, (code, *others) in codes.items() if not others}


@cache
def _codes_by_hash() -> dict[str, str]:
    return {hashlib.sha256(code.encode()).hexdigest(): code for code in set(_countries().values())}
