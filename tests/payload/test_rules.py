"""The version of the rules changes with the rules."""

import hashlib

import phonenumbers
import polars as pl

from mm_pipelines.identity import normalize
from mm_pipelines.payload.rules import RULES, rules_version

VALUES = pl.DataFrame(
    {
        "EMAIL": [" Mary.O+tag@Example.COM ", "not an address", "null", "a" * 64, "zoë@exämple.de"],
        "PHONE": ["+1 (650) 555-1212", "0151 23456789", "15123456789", "4.91511E+12", "12"],
        "GEN": ["Female", "M", "x", "", "f"],
        "DOB": ["1974-05-01", "01.05.1974", "May 1, 1974", "1874-01-01", ""],
        "FN": ["O'Brien", " Zoë ", "Jürgen-Peter", "李", ""],
        "LN": ["Mc Donald", "d'Arc", "Müller", "Nguyễn", "-"],
        "CT": ["St. Gallen", "New York", "München", "", "42"],
        "ST": ["California", "NY", "Bayern", "", "ca"],
        "ZIP": ["94025-1234", "80331", "SW1A 1AA", "7", ""],
        "COUNTRY": ["USA", "Deutschland", "de", "Atlantis", ""],
        "MADID": ["AEBE52E7-03EE-455A-B3C4-E57283966239", "", "x", "", ""],
        "EXTERN_ID": ["A-1", " 2 ", "", "", "x"],
    }
)
KNOWN = (1, "0a6b3caaaea2a44e")


def test_other_results_need_another_version_of_the_rules() -> None:
    """If this fails because a rule changed, raise RULES and enter the new digest."""
    results = normalize(VALUES, default_country="DE").write_csv(null_value="unusable")
    assert (RULES, hashlib.sha256(results.encode()).hexdigest()[:16]) == KNOWN


def test_an_upgrade_of_phonenumbers_is_another_version() -> None:
    assert rules_version() == f"{RULES}+phonenumbers-{phonenumbers.__version__}"
