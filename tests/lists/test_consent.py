"""Rows without consent are found in every export that records it."""

from pathlib import Path

import pytest

from mm_pipelines.config import ConsentColumn
from mm_pipelines.lists import CustomerList, FileSource, ListHeaderError, inspect_list
from mm_pipelines.lists.consent import ConsentSetting

MAILCHIMP = "Email Address,First Name,MEMBER_RATING,OPTIN_TIME,LEID,EUID"


def agreed(path: Path, content: str, setting: ConsentSetting = None) -> list[bool]:
    path.write_text(content, encoding="utf-8")
    return [
        row
        for frame in CustomerList(str(path), consent=setting).chunks()
        for row in frame["agreed"].to_list()
    ]


@pytest.mark.parametrize(
    ("source", "header", "yes", "no"),
    [
        ("Shopify", "Email,Accepts Email Marketing", ["yes", "TRUE", " Yes "], ["no", "", "false"]),
        (
            "Shopify",
            "Email,Accepts Email Marketing,Accepts SMS Marketing",
            ["yes,no", "no,yes", "yes,yes"],
            ["no,no", ","],
        ),
        (
            "Mailchimp",
            f"{MAILCHIMP},Status",
            ["Mary,4,2020-01-01,1,2,subscribed", "Mary,2,,,,Subscribed"],
            ["M,4,,,,unsubscribed", "M,4,,,,cleaned", "M,4,,,,", "M,4,,,,non-subscribed"],
        ),
        ("Mailchimp", f"{MAILCHIMP},UNSUB_TIME", ["M,4,,,,"], ["M,4,,,,2020-01-01 10:00:00"]),
        ("HubSpot", "Email,Unsubscribed from all email", ["", "No", "false"], ["Yes", "true"]),
        (
            "HubSpot",
            "Email,Legal basis for processing contact's data,Opted out of all email",
            ["Freely given consent from contact,", "Other;freely given consent from contact,No"],
            ["Legitimate interest - existing customer,", "Freely given consent from contact,Yes"],
        ),
        (
            "HubSpot",
            "Email,Marketing contact status",
            ["Marketing contact"],
            ["Non-marketing contact"],
        ),
        (
            "Klaviyo",
            "Email,Email Marketing Consent,SMS Marketing Consent",
            ["SUBSCRIBED,NEVER_SUBSCRIBED", "UNSUBSCRIBED,SUBSCRIBED"],
            ["NEVER_SUBSCRIBED,", "UNSUBSCRIBED,UNSUBSCRIBED"],
        ),
        ("Klaviyo", "Email,$consent", ["email", "\"['email','sms']\"", "[sms]"], ["", "[]", "no"]),
    ],
)  # fmt: skip
def test_an_exports_consent_is_recognized(
    tmp_path: Path, source: str, header: str, yes: list[str], no: list[str]
) -> None:
    content = "\n".join([header, *(f"a@b.co,{cells}" for cells in [*yes, *no]), ""])
    assert agreed(tmp_path / "l.csv", content) == [True] * len(yes) + [False] * len(no)
    report = inspect_list(FileSource(str(tmp_path / "l.csv")))
    assert report.consent.source == source
    assert report.rows_without_consent == len(no)
    assert report.rows_with_identifier == len(yes)
    assert not set(report.unrecognized) & set(report.consent.headers)


def test_status_is_consent_only_within_a_mailchimp_export(tmp_path: Path) -> None:
    assert agreed(tmp_path / "l.csv", "email,Status\na@b.co,shipped\n") == [True]
    report = inspect_list(FileSource(str(tmp_path / "l.csv")))
    assert (report.consent.source, report.consent.recorded) == ("none", False)


def test_columns_that_record_only_opt_outs_do_not_record_consent(tmp_path: Path) -> None:
    agreed(tmp_path / "l.csv", "email,Unsubscribed from all email\na@b.co,No\n")
    assert not inspect_list(FileSource(str(tmp_path / "l.csv"))).consent.recorded


def test_mm_yaml_names_the_column_and_the_cells_that_grant_consent(tmp_path: Path) -> None:
    setting = ConsentColumn(column="Einwilligung", yes=("Ja", "j.a"))
    content = "email,Einwilligung,Accepts Email Marketing\na@b.co,%s,no\n"
    for cell, expected in [("ja", True), (" JA ", True), ("j.a", True), ("jxa", False)]:
        assert agreed(tmp_path / "l.csv", content % cell, setting) == [expected]
    assert agreed(tmp_path / "l.csv", content % '"ja, nein"', setting) == [False]


def test_a_named_column_that_is_missing_refuses_the_list(tmp_path: Path) -> None:
    with pytest.raises(ListHeaderError, match="no column 'Einwilligung', which"):
        agreed(
            tmp_path / "l.csv",
            "email\na@b.co\n",
            ConsentColumn(column="Einwilligung", yes=("ja",)),
        )


def test_consent_is_ignored_on_request(tmp_path: Path) -> None:
    assert agreed(tmp_path / "l.csv", "email,Accepts Marketing\na@b.co,no\n", "ignore") == [True]


def test_consent_is_read_beside_mapped_columns(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("Kontakt,Accepts Marketing\na@b.co,no\n", encoding="utf-8")
    assert inspect_list(FileSource(str(path), {"EMAIL": "Kontakt"})).rows_without_consent == 1


def test_a_consent_field_that_appears_late_in_ndjson_refuses_the_list(tmp_path: Path) -> None:
    path = tmp_path / "l.ndjson"
    path.write_text(
        '{"email": "a@b.co"}\n' * 50_000 + '{"email": "a@b.co", "accepts_marketing": false}\n',
        encoding="utf-8",
    )
    with pytest.raises(ListHeaderError, match="row 50,001: the field 'accepts_marketing'"):
        inspect_list(FileSource(str(path)))
