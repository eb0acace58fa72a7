"""The hashes under which an opted-out person is suppressed."""

import hashlib

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_pipelines.consent.identifiers import read_requests
from mm_pipelines.consent.opt_out_requests import OpenRequest
from mm_pipelines.identity.phone.reference import read_phone

REGIONS = ("DE", "ID", "XK", "SE", "IT", "FR", "US", "CO")


def phone_hashes(phone: str, country: str | None) -> set[str]:
    request = OpenRequest(1, phone=phone, email=None, psid=None, subscriber_token=None)
    (opt_out,), _ = read_requests([request], country)
    return {sha256 for _, sha256 in opt_out.hashes}


def sha(digits: str) -> str:
    return hashlib.sha256(digits.encode()).hexdigest()


@pytest.mark.parametrize("phone", ["4915112345678", "+49 151 12345678", "0151 12345678"])
def test_a_phone_is_suppressed_under_the_old_and_the_new_rule(phone: str) -> None:
    assert {sha("4915112345678"), sha("494915112345678")} <= phone_hashes(phone, "DE")


def test_a_phone_with_country_code_is_suppressed_under_the_old_rule_of_its_own_country() -> None:
    assert sha("494915112345678") in phone_hashes("+4915112345678", "US")


def test_a_phone_that_can_be_read_in_one_way_has_one_hash() -> None:
    assert phone_hashes("(650) 555-1212", "US") == {sha("16505551212")}
    assert phone_hashes("ab" * 32, "DE") == {"ab" * 32}


@st.composite
def spelled_twice(draw: st.DrawFn) -> tuple[str, str, str]:
    """A region, and one of its mobile numbers as an opt-out and as a list spell it."""
    region = draw(st.sampled_from(REGIONS))
    example = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    assert example is not None
    digits = phonenumbers.national_significant_number(example)
    last = draw(st.integers(0, 9_999))
    national = f"{digits[:-4]}{last:04}"
    code = example.country_code
    trunk = phonenumbers.ndd_prefix_for_region(region, True) or ""
    spellings = [f"+{code}{national}", f"00{code}{national}", f"{code}{national}"]
    spellings += [f"{trunk}{national}", national]
    return region, draw(st.sampled_from(spellings)), draw(st.sampled_from(spellings))


@given(spelled_twice())
def test_every_list_spelling_of_an_opted_out_phone_is_suppressed(
    case: tuple[str, str, str],
) -> None:
    region, opted_out, listed = case
    hashes = phone_hashes(opted_out, region)
    readings = read_phone(listed, region)
    assert hashes & {sha(form) for form in readings.distinct()}
    # Earlier versions uploaded this form, and an audience is compared by the stored hash alone.
    assert readings.libphonenumber is None or sha(readings.libphonenumber) in hashes


def test_no_requests_give_no_opt_outs() -> None:
    assert read_requests([], "US") == ([], {})
