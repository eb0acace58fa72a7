"""The commands about a list's rows: `mm normalize` and `mm rejects`."""

import hashlib
import json
import sqlite3
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from mm_pipelines.payload import quarantine
from mm_pipelines.warehouse.database import Database

DAY = date(2026, 11, 18)
CONFIG = """
start_date: 2026-11-01
pages:
  acme: {page_id: "134141414124123", access_token_env: ACME_PAGE_TOKEN}
audiences:
  news:
    page: acme
    ad_account_id: "1"
    name: News
    description: Readers
    system_user_token_env: MM_SYSTEM_USER_TOKEN
    source: {path: "{day}.csv"}
"""


def mm(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def steps(*arguments: str) -> dict[str, str]:
    shown = mm("normalize", "--json", *arguments)
    return {row["step"]: row["result"] for row in json.loads(shown.stdout)}


def test_normalize_shows_each_step_to_the_hash() -> None:
    assert steps("PHONE", "0151 12345678", "--country", "DE") == {
        "value": "0151 12345678",
        "country": "DE",
        "normalized": "4915112345678",
        "SHA-256": hashlib.sha256(b"4915112345678").hexdigest(),
    }
    assert steps("madid", "AAAA-1")["uploaded in plain"] == "aaaa-1"
    assert steps("DOB", "1990-02-03")["DOBM normalized"] == "02"


def test_normalize_shows_both_readings_of_an_ambiguous_phone() -> None:
    shown = steps("PHONE", "4915123456789", "--country", "DE")
    assert sum(step.startswith("normalized") for step in shown) == 2


def test_normalize_fails_for_an_unusable_value_and_an_unknown_key() -> None:
    assert mm("normalize", "EMAIL", "ann@").exit_code == 1
    unknown = mm("normalize", "MAIL", "ann@example.com")
    assert unknown.exit_code == 1
    assert "MAIL is not a schema key" in unknown.stderr
    assert "two-letter code" in mm("normalize", "PHONE", "1", "--country", "QQ").stderr


def test_normalize_reads_standard_input_and_prints_markup_as_it_is() -> None:
    shown = mm("normalize", "FN", "-", stdin="[bold]Ann\n")
    assert "[bold]Ann" in shown.stdout


@pytest.fixture
def rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database, database_url: str
) -> Path:
    """A list whose second row was rejected; returns its path."""
    (tmp_path / "mm.yaml").write_text(CONFIG)
    file = tmp_path / f"{DAY}.csv"
    file.write_text("email,phone\nann@example.com,\nbroken@,12\n")
    dagster_home = tmp_path / "home/dagster"
    dagster_home.mkdir(parents=True)
    for name, value in {
        "MM_CONFIG": str(tmp_path / "mm.yaml"),
        "MM_HOME": str(tmp_path / "home"),
        "MM_DATABASE_URL": database_url,
        "DAGSTER_HOME": str(dagster_home),
    }.items():
        monkeypatch.setenv(name, value)
    with database.transaction() as connection:
        quarantine.add(connection, "news", DAY, "hashed_payload", [2], "email_unusable")
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                "hashed_payload",
                partition=f"news|{DAY}",
                tags={
                    "dagster/input_data_version/customer_list": hashlib.sha256(
                        file.read_bytes()
                    ).hexdigest()
                },
            )
        )
    return file


def test_rejects_shows_row_numbers_and_reasons_without_values(rejected: Path) -> None:
    shown = mm("rejects", "news", str(DAY))
    assert shown.exit_code == 0, shown.output
    assert "email_unusable" in shown.stdout
    assert "broken@" not in shown.output
    assert "No row of news, 2026-11-19" in mm("rejects", "news", "2026-11-19").stdout
    assert "no audience 'olds'" in mm("rejects", "olds", str(DAY)).stderr


def test_rejects_reads_the_values_again_if_the_list_is_unchanged(rejected: Path) -> None:
    shown = mm("rejects", "news", str(DAY), "--show", "--json")
    assert shown.exit_code == 0, shown.output
    (row,) = json.loads(shown.stdout)
    assert (row["row"], row["EMAIL"], row["PHONE"]) == (2, "broken@", "12")

    rejected.write_text(rejected.read_text() + "new@example.com,\n")

    changed = mm("rejects", "news", str(DAY), "--show")
    assert changed.exit_code == 1
    assert "is not the one that was hashed" in changed.stderr
    assert "broken@" not in changed.output


def test_sources_check_shows_rows_columns_and_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CONFIG[CONFIG.index("  news:") :].replace("news:", "crm:").replace("News", "Crm")
    query = '{query: "select email from people where day = :day", connection_env: CRM_URL}'
    (tmp_path / "mm.yaml").write_text(CONFIG + other.replace('{path: "{day}.csv"}', query))
    (tmp_path / f"{DAY}.csv").write_text("email,Accepts Marketing\na@b.co,yes\nb@b.co,no\n")
    with sqlite3.connect(tmp_path / "crm.sqlite") as connection:
        connection.execute("create table people (email text, day text)")
        connection.execute("insert into people values ('c@b.co', ?)", (DAY.isoformat(),))
    connection.close()
    monkeypatch.setenv("MM_CONFIG", str(tmp_path / "mm.yaml"))
    monkeypatch.setenv("CRM_URL", f"sqlite:///{tmp_path}/crm.sqlite")

    checked = mm("sources", "check", "--day", DAY.isoformat(), "--json")
    assert checked.exit_code == 0
    news, crm = json.loads(checked.stdout)
    assert (news["rows"], news["columns"], news["consent"]) == (
        2,
        "EMAIL from email",
        "Accepts Marketing",
    )
    assert (crm["rows"], crm["source"]) == (1, "the query of crm")
    assert crm["row_numbers"] == "unstable: add order by or source.key"

    monkeypatch.setenv("CRM_URL", f"sqlite:///{tmp_path}/none.sqlite")
    failed = mm("sources", "check", "crm", "--day", DAY.isoformat())
    assert failed.exit_code == 1
    assert "the database file in CRM_URL cannot be opened" in failed.stdout
