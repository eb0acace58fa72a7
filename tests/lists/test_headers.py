"""The headers of the exports that people have are recognized without configuration."""

import pytest

from mm_pipelines.lists import ListHeaderError
from mm_pipelines.lists.headers import KNOWN_HEADERS, match_columns

META = (
    "email,email,email,phone,phone,phone,madid,fn,ln,zip,ct,st,country,dob,doby,gen,age,uid,value"
)
SHOPIFY = (
    "Customer ID,First Name,Last Name,Email,Accepts Email Marketing,Default Address Company,"
    "Default Address Address1,Default Address Address2,Default Address City,"
    "Default Address Province Code,Default Address Country Code,Default Address Zip,"
    "Default Address Phone,Phone,Accepts SMS Marketing,Total Spent,Total Orders,Note,Tax Exempt,"
    "Tags"
)
SHOPIFY_BEFORE_2022 = (
    "First Name,Last Name,Email,Accepts Email Marketing,Company,Address1,Address2,City,Province,"
    "Province Code,Country,Country Code,Zip,Phone,Accepts SMS Marketing,Total Spent,Total Orders,"
    "Tags,Note,Tax Exempt"
)
MAILCHIMP = (
    "Email Address,First Name,Last Name,Address,Phone Number,Birthday,MEMBER_RATING,OPTIN_TIME,"
    "OPTIN_IP,CONFIRM_TIME,CONFIRM_IP,LATITUDE,LONGITUDE,GMTOFF,DSTOFF,TIMEZONE,CC,REGION,"
    "LAST_CHANGED,LEID,EUID,NOTES,TAGS"
)
HUBSPOT = (
    "Record ID,First Name,Last Name,Email,Phone Number,Mobile Phone Number,City,State/Region,"
    "Postal Code,Country/Region,Date of birth,Gender,Contact owner,Lead Status,Create Date"
)
KLAVIYO = (
    "Email,Klaviyo ID,First Name,Last Name,Organization,Title,Phone Number,Address,Address 2,City,"
    "State / Region,Country,Zip Code,Latitude,Longitude,Source,Email Marketing Consent"
)

RECOGNISED = [
    (META, {
        "EMAIL": ("email", "email", "email"), "PHONE": ("phone", "phone", "phone"),
        "GEN": ("gen",), "DOBY": ("doby",), "LN": ("ln",), "FN": ("fn",), "CT": ("ct",),
        "ST": ("st",), "ZIP": ("zip",), "COUNTRY": ("country",), "MADID": ("madid",),
        "DOB": ("dob",),
    }),
    (SHOPIFY, {
        "EMAIL": ("Email",), "PHONE": ("Phone", "Default Address Phone"), "LN": ("Last Name",),
        "FN": ("First Name",), "CT": ("Default Address City",),
        "ST": ("Default Address Province Code",), "ZIP": ("Default Address Zip",),
        "COUNTRY": ("Default Address Country Code",),
    }),
    (SHOPIFY_BEFORE_2022, {
        "EMAIL": ("Email",), "PHONE": ("Phone",), "LN": ("Last Name",), "FN": ("First Name",),
        "CT": ("City",), "ST": ("Province Code", "Province"), "ZIP": ("Zip",),
        "COUNTRY": ("Country Code", "Country"),
    }),
    (MAILCHIMP, {
        "EMAIL": ("Email Address",), "PHONE": ("Phone Number",), "LN": ("Last Name",),
        "FN": ("First Name",), "ST": ("REGION",), "COUNTRY": ("CC",), "DOB": ("Birthday",),
    }),
    (HUBSPOT, {
        "EMAIL": ("Email",), "PHONE": ("Mobile Phone Number", "Phone Number"),
        "GEN": ("Gender",), "LN": ("Last Name",), "FN": ("First Name",), "CT": ("City",),
        "ST": ("State/Region",), "ZIP": ("Postal Code",), "COUNTRY": ("Country/Region",),
        "DOB": ("Date of birth",),
    }),
    (KLAVIYO, {
        "EMAIL": ("Email",), "PHONE": ("Phone Number",), "LN": ("Last Name",),
        "FN": ("First Name",), "CT": ("City",), "ST": ("State / Region",), "ZIP": ("Zip Code",),
        "COUNTRY": ("Country",),
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "expected"),
    RECOGNISED,
    ids=["Meta", "Shopify", "Shopify before 2022", "Mailchimp", "HubSpot", "Klaviyo"],
)
def test_an_exports_header_is_recognized(header: str, expected: dict[str, tuple[str, ...]]) -> None:
    columns = match_columns("list.csv", header.split(","))
    assert columns.headers == expected
    assert len(columns.unrecognized) + sum(map(len, expected.values())) == columns.count


@pytest.mark.parametrize("header", ["E-MAIL", " e mail ", "Émail", "$email", "EMAIL_ADDRESS"])
def test_a_header_is_known_by_its_letters(header: str) -> None:
    assert match_columns("list.csv", [header]).headers == {"EMAIL": (header.strip(),)}


def test_every_known_header_means_one_key() -> None:
    known = [header for headers in KNOWN_HEADERS.values() for header in headers]
    assert len(known) == len(set(known))


def test_what_mm_yaml_says_wins() -> None:
    columns = match_columns("list.csv", HUBSPOT.split(","), {"PHONE": "Phone Number"})
    assert columns.headers == {"PHONE": ("Phone Number",)}


def test_values_in_the_place_of_a_header_are_not_repeated_in_the_message() -> None:
    with pytest.raises(ListHeaderError) as caught:
        match_columns("list.csv", ["mary@example.com", "Mary"])
    assert "mary" not in str(caught.value).lower()


def test_an_unrecognized_header_is_not_quoted() -> None:
    with pytest.raises(ListHeaderError) as caught:
        match_columns("list.csv", ["Mary", "Jones", "Berlin"])
    assert not {"Mary", "Jones", "Berlin"} & set(str(caught.value).replace("'", " ").split())


def test_names_in_other_scripts_bind_to_their_own_columns() -> None:
    header = ["Имя", "电话", "電郵", "फ़ोन", "फन", "№"]
    for place, name in enumerate(header):
        columns = match_columns("list.csv", header, {"PHONE": name})
        assert columns.places == {"PHONE": (place,)}
    with pytest.raises(ListHeaderError, match="there is no column '手机'"):
        match_columns("list.csv", header, {"PHONE": "手机"})
    assert match_columns("list.csv", ["ИМЯ", "Почта"], {"EMAIL": "почта"}).places == {"EMAIL": (1,)}


def test_a_pivoted_table_may_have_dates_among_its_names() -> None:
    columns = match_columns("list.csv", ["email", "2026-11-20", "20261121", "7"])
    assert columns.headers == {"EMAIL": ("email",)}


def test_columns_of_one_key_are_named_in_the_order_of_precedence() -> None:
    columns = match_columns("list.csv", ["Phone", "Mobile", "Email"])
    assert columns.alternatives == {"PHONE": ("Mobile", "Phone")}
