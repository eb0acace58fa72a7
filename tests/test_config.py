"""mm.yaml as people write it, rightly and wrongly."""

import re
from datetime import date, timedelta
from pathlib import Path

import pytest

from mm_pipelines.config import Config, ConfigError, ConsentColumn, environment_faults, load_config
from mm_pipelines.lists import QuerySource
from mm_pipelines.lists.configured import customer_source

MINIMAL = """\
start_date: 2026-11-01
pages:
  acme: {page_id: 0134141414124123, access_token_env: ACME_PAGE_TOKEN}
audiences:
  acme_newsletter:
    page: acme
    ad_account_id: act_12348141984909088
    name: Acme newsletter
    description: People who agreed
    default_country: NO
    source: {path: "customers/{audience}/{day}.csv"}
"""


def load(tmp_path: Path, content: str) -> Config:
    path = tmp_path / "mm.yaml"
    path.write_text(content, encoding="utf-8")
    return load_config(path)


def faults_of(tmp_path: Path, content: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    return [str(fault).removeprefix(f"{tmp_path}/") for fault in caught.value.faults]


def test_the_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL).settings
    assert settings.batch_size == 10_000
    assert settings.sessions_side_by_side == 1
    assert settings.overdue_hours == 24
    assert settings.removal_share == 0.30
    assert settings.token_pull_minutes == 15
    assert (settings.retention_days, settings.payload_days) == (90, 2)
    assert settings.run_retention_days == 90


def test_a_freshness_limit_is_a_duration_that_an_audience_can_replace(tmp_path: Path) -> None:
    content = MINIMAL.replace("    page: acme\n", "    page: acme\n    fresh_within: 8d\n")
    config = load(tmp_path, content + "settings: {fresh_within: 90m}\n")
    assert config.settings.fresh_within == timedelta(minutes=90)
    assert config.audiences["acme_newsletter"].fresh_within == timedelta(days=8)
    assert load(tmp_path, MINIMAL).settings.fresh_within == timedelta(hours=36)
    (fault,) = faults_of(tmp_path, MINIMAL + "settings: {fresh_within: soon}\n")
    assert "'soon' is not a duration. Write one such as 90m, 36h or 8d." in fault


def test_ids_stay_text_and_norway_stays_norway(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert config.pages["acme"].page_id == "0134141414124123"
    assert config.audiences["acme_newsletter"].ad_account_id == "12348141984909088"
    assert config.audiences["acme_newsletter"].default_country == "NO"


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).directory == tmp_path


def test_every_fault_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    content = (
        MINIMAL.replace("start_date: 2026-11-01", "start_date: yesterday\ntimezone: Mars/Base")
        .replace("page: acme", "page: globex")
        .replace("{day}.csv", "{dya}.csv")
        .replace("    description: People who agreed\n", "    mood: cheerful\n")
    )
    faults = faults_of(tmp_path, content)
    assert [fault.split(":")[0] for fault in faults] == [
        "mm.yaml, line 1, start_date",
        "mm.yaml, line 2, timezone",
        "mm.yaml, line 6, audiences.acme_newsletter.description",
        "mm.yaml, line 12, audiences.acme_newsletter.source.path",
        "mm.yaml, line 10, audiences.acme_newsletter.mood",
        "mm.yaml, line 7, audiences.acme_newsletter.page",
    ]
    assert "unknown placeholder {dya}. Use only {audience}, {day}." in faults[3]
    assert "there is no page 'globex'. The pages are acme." in faults[5]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("", "mm.yaml: has no keys"),
        ("- a\n", "mm.yaml: has no keys"),
        ("pages: {\n", "mm.yaml, line 2: this is not YAML"),
        (MINIMAL.replace("  acme:", "  Acme!:"), "a key is 1 to 64 characters"),
        (MINIMAL.replace("act_12348", "act 12348"), "an id at Meta is 1 to 20 digits"),
        (MINIMAL + "    name: Again\n", "line 12, audiences.acme_newsletter.name: this key occurs"),
        (MINIMAL + "settings: {batch_size: 10001}\n", "less than or equal to 10000"),
        (MINIMAL.replace("audiences:", "audience:"), "audiences: this key is missing"),
    ],
)
def test_a_broken_file_is_rejected_with_what_to_mend(
    tmp_path: Path, broken: str, expected: str
) -> None:
    assert any(expected in fault for fault in faults_of(tmp_path, broken))


def test_two_keys_for_one_audience_at_meta_are_refused(tmp_path: Path) -> None:
    entry = MINIMAL.split("audiences:\n")[1]
    faults = faults_of(tmp_path, MINIMAL + entry.replace("acme_newsletter", "acme_again"))
    assert "would be one Custom Audience" in faults[0]


def test_a_missing_file_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set MM_CONFIG"):
        load_config(tmp_path / "absent.yaml")


def test_the_environment_is_checked_by_name_only(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    given = {"MM_SYSTEM_USER_TOKEN": "s3cret", "MM_APP_ID": "1", "MM_APP_SECRET": "x"}
    faults = list(environment_faults(config, given))
    assert [fault.place for fault in faults] == ["ACME_PAGE_TOKEN", "MM_WEBHOOK_VERIFY_TOKEN"]
    assert "s3cret" not in "".join(map(str, faults))


def test_a_token_in_the_place_of_its_variables_name_is_refused_and_not_repeated(
    tmp_path: Path,
) -> None:
    token = "EAAB" + 60 * "x1"
    (fault,) = faults_of(tmp_path, MINIMAL.replace("ACME_PAGE_TOKEN", token))
    assert "pages.acme.access_token_env" in fault
    assert "not the token" in fault
    assert "EAAB" not in fault


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        (
            "{EMAILS: email, PHONE: tel}",
            ".EMAILS: 'EMAILS' is not a schema key. The keys are ",
        ),
        ("{FN: vorname}", ": the mapping has neither EMAIL nor PHONE"),
        ("{EMAIL: ' '}", ".EMAIL: "),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(tmp_path: Path, columns: str, fault: str) -> None:
    content = MINIMAL.replace('{day}.csv"}', f'{{day}}.csv", columns: {columns}}}')
    [found] = faults_of(tmp_path, content)
    assert f"mm.yaml, line 11, audiences.acme_newsletter.source.columns{fault}" in found


def test_a_source_names_its_consent_column(tmp_path: Path) -> None:
    written = "consent: {column: Opt-in, yes: [yes, Ja]}"
    content = MINIMAL.replace('{day}.csv"}', f'{{day}}.csv", {written}}}')
    consent = load(tmp_path, content).audiences["acme_newsletter"].source.consent
    assert consent == ConsentColumn(column="Opt-in", yes=("yes", "Ja"))
    content = MINIMAL.replace('{day}.csv"}', '{day}.csv", consent: ignore}')
    assert load(tmp_path, content).audiences["acme_newsletter"].source.consent == "ignore"


@pytest.mark.parametrize(
    ("consent", "place"),
    [("{column: Opt-in}", "consent.yes"), ("yes", "consent"), ("{yes: [a]}", "consent.column")],
)
def test_a_consent_setting_that_cannot_work_is_refused(
    tmp_path: Path, consent: str, place: str
) -> None:
    content = MINIMAL.replace('{day}.csv"}', f'{{day}}.csv", consent: {consent}}}')
    [found] = faults_of(tmp_path, content)
    assert f"mm.yaml, line 11, audiences.acme_newsletter.source.{place}: " in found


def test_a_removal_list_has_no_consent(tmp_path: Path) -> None:
    content = MINIMAL + '    removals: {path: "r/{day}.csv", consent: ignore}\n'
    [found] = faults_of(tmp_path, content)
    assert "audiences.acme_newsletter.removals.consent: this key does not exist" in found


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('{path: "a.csv", query: select 1}', "give exactly one of path, query and query_file"),
        ("{columns: {EMAIL: mail}}", "give exactly one of path, query and query_file"),
        ("{query: select 1}", "query needs connection_env: the name of the environment variable"),
        ('{path: "a.csv", key: id}', "key does not belong to path. Remove it."),
        ("{query: select 1, connection_env: A, encoding: utf-8}", "encoding does not belong to qu"),
        ("{query: select 1, connection_env: A, key: 'id; drop'}", "String should match pattern"),
    ],
)
def test_a_source_is_files_or_a_query(tmp_path: Path, source: str, fault: str) -> None:
    content = re.sub(r"source: .*", f"source: {source}", MINIMAL)
    [found] = faults_of(tmp_path, content)
    assert "audiences.acme_newsletter.source" in found
    assert fault in found


def test_the_database_of_a_query_is_a_variable_that_must_be_set(tmp_path: Path) -> None:
    source = "{query_file: customers.sql, connection_env: WAREHOUSE_URL}"
    config = load(tmp_path, re.sub(r"source: .*", f"source: {source}", MINIMAL))
    assert "WAREHOUSE_URL" in [fault.place for fault in environment_faults(config, {})]
    found = customer_source(config, "acme_newsletter", date(2026, 11, 20))
    assert isinstance(found, QuerySource)
    assert (found.name, found.query) == ("customers.sql", tmp_path / "customers.sql")


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13"])
def test_an_encoding_that_is_none_of_text_is_refused(tmp_path: Path, encoding: str) -> None:
    content = MINIMAL.replace('{day}.csv"}', f'{{day}}.csv", encoding: {encoding}}}')
    [found] = faults_of(tmp_path, content)
    assert f"mm.yaml, line 11, audiences.acme_newsletter.source.encoding: '{encoding}'" in found
    assert "is not a text encoding. Use a name such as utf-8 or windows-1250." in found
