"""`mm upload --dry-run`."""

import hashlib
import json
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from mm_pipelines.lists import FileSource
from mm_pipelines.lists import registry as lists
from mm_pipelines.lists.report import inspect_list
from mm_pipelines.payload import registry as payloads
from mm_pipelines.payload.build import build_hashed_payload
from mm_pipelines.storage import Storage
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
    default_country: DE
    source: {path: "{day}.csv"}
"""
LIST = "email,phone,first name\nann@example.com,,Ann\nbob@example.com,,Bob\nbroken@,12,Carl\n"


def mm(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["upload", *arguments])


@pytest.fixture
def hashed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database, database_url: str
) -> Database:
    """A hashed list of two people, with a rejected row."""
    (tmp_path / "mm.yaml").write_text(CONFIG)
    file = tmp_path / f"{DAY}.csv"
    file.write_text(LIST)
    storage = tmp_path / "storage"
    for name, value in {
        "MM_CONFIG": str(tmp_path / "mm.yaml"),
        "MM_HOME": str(tmp_path / "home"),
        "MM_DATABASE_URL": database_url,
        "MM_STORAGE_URL": str(storage),
        "MM_SUPPRESSION_KEY": "a key of the tests",
        "MM_GRAPH_API_URL": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    source = FileSource(str(file))
    report = inspect_list(source, default_country="DE")
    payload = build_hashed_payload(
        source, Storage(str(storage)), folder="hashed_payload", default_country="DE"
    )
    with database.transaction() as connection:
        lists.record(connection, "news", DAY, report)
        current = payloads.HashedPayload(
            "news", DAY, payload.sha256, payload.path, payload.accepted
        )
        payloads.record(connection, current)
        connection.execute(
            text("insert into mm.rejected_row values ('news', :day, 'hashed_payload', 3, '{x}')"),
            {"day": DAY},
        )
    return database


def test_a_dry_run_shows_counts_rejections_and_made_up_examples(hashed: Database) -> None:
    shown = mm("news", str(DAY), "--dry-run", "--json")
    assert shown.exit_code == 0, shown.output
    planned = json.loads(shown.stdout)
    assert (planned["exists"], planned["new_people"], planned["removed_people"]) == (False, 2, 0)
    assert planned["rejected"] == [{"stage": "hashed_payload", "reason": "x", "rows": 1}]
    examples = {row["key"]: row for row in planned["examples"]}
    assert set(examples) == {"EMAIL", "PHONE", "FN"}
    assert examples["EMAIL"]["normalized"] == "mary.example@example.com"
    assert examples["PHONE"]["normalized"].startswith("49")
    assert examples["FN"]["sent"] == hashlib.sha256(b"maryann").hexdigest()
    assert "ann@example.com" not in shown.stdout.replace("mary", "")


def test_a_dry_run_changes_nothing(hashed: Database) -> None:
    tables = "select count(*) from mm.upload_delta union all select count(*) from mm.upload_batch"
    assert mm("news", str(DAY), "--dry-run").exit_code == 0
    with hashed.transaction() as connection:
        assert connection.execute(text(tables)).scalars().all() == [0, 0]


def test_without_dry_run_or_payload_the_next_step_is_named(hashed: Database) -> None:
    assert "materialize audience_upload" in mm("news", str(DAY)).stderr
    assert "materialize hashed_payload first" in mm("news", "2026-11-19", "--dry-run").stderr
    assert "no audience 'olds'; known are news" in mm("olds", str(DAY), "--dry-run").stderr
