"""The options of `mm status`."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from mm_pipelines.warehouse.database import Database

ROOT = Path(__file__).parents[2]
FIRST = date(2026, 10, 1)

STATUS = text("""
insert into mm.match_status
    (audience, day, status, rows_uploaded, rows_processed, rows_failed, as_of)
values (:audience, :day, :status, 100, 100, 0, now())
""")


@pytest.fixture
def statuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database, database_url: str
) -> Database:
    """A match status for each of 30 days of two audiences of different Pages."""
    monkeypatch.setenv("MM_CONFIG", str(ROOT / "examples/mm.yaml"))
    monkeypatch.setenv("MM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MM_DATABASE_URL", database_url)
    with database.transaction() as connection:
        for number in range(30):
            for audience in ("acme_newsletter", "globex_customers"):
                day = FIRST + timedelta(days=number)
                values = {"audience": audience, "day": day, "status": "complete"}
                connection.execute(STATUS, values)
    return database


def mm(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments])


def partitions(*arguments: str) -> list[tuple[str, str]]:
    rows = json.loads(mm("--json", *arguments).stdout)["partitions"]
    return [(row["day"], row["audience"]) for row in rows]


def test_the_newest_partitions_come_first_and_fit_one_screen(statuses: Database) -> None:
    shown = mm().stdout
    assert shown.index("2026-10-30") < shown.index("2026-10-29")
    assert "2026-10-01" not in shown
    assert len(shown.splitlines()) <= 40
    assert "50 more" in shown
    assert len(partitions()) == 60


def test_status_can_be_limited_to_an_audience_a_page_and_a_day(statuses: Database) -> None:
    assert partitions("--audience", "acme_newsletter", "--since", "2026-10-29") == [
        ("2026-10-30", "acme_newsletter"),
        ("2026-10-29", "acme_newsletter"),
    ]
    assert {audience for _, audience in partitions("--page", "globex")} == {"globex_customers"}
    refused = mm("--audience", "acne")
    assert refused.exit_code == 1
    assert "no audience 'acne'" in refused.stderr


def test_failing_exits_with_1_only_if_anything_fails(statuses: Database) -> None:
    well = mm("--failing")
    assert well.exit_code == 0
    assert "No partition is failing." in well.stdout
    with statuses.transaction() as connection:
        connection.execute(
            text("update mm.match_status set status = 'overdue' where day = '2026-10-07'")
        )

    failing = mm("--failing", "--page", "acme", "--json")

    assert failing.exit_code == 1
    (row,) = json.loads(failing.stdout)["partitions"]
    assert (row["audience"], row["day"]) == ("acme_newsletter", "2026-10-07")
    assert mm("--failing", "--since", "2026-10-08").exit_code == 0


def test_a_missing_mm_yaml_is_one_sentence(
    statuses: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MM_CONFIG", str(tmp_path / "mm.yaml"))
    refused = mm("--page", "acme")
    assert refused.exit_code == 1
    assert "mm.yaml: the file does not exist" in refused.stderr
    assert "Traceback" not in refused.output


def test_deferred_work_is_shown_with_its_time_its_lock_and_its_reason(statuses: Database) -> None:
    with statuses.transaction() as connection:
        connection.execute(
            text(
                "insert into mm.deferred_work "
                "(asset, partition_key, due_at, reason, waits_for_lock, attempts, run_id) values "
                "('audience_upload', 'acme_newsletter|2026-10-07', '2026-10-08 09:30Z', "
                "'too many calls', null, 2, 'run'), "
                "('unsubscribes', '2026-10-07|globex', '2026-10-08 09:00Z', "
                "'another run holds it', 'audience:globex_customers', 1, 'run')"
            )
        )
    shown = mm().stdout
    for part in ("audience_upload", "2026-10-08 09:30", "too many calls", "globex_customers"):
        assert part in shown

    def deferred(*arguments: str) -> list[str]:
        rows = json.loads(mm("--json", *arguments).stdout)["deferred"]
        return [row["asset"] for row in rows]

    assert deferred() == ["unsubscribes", "audience_upload"]
    assert deferred("--audience", "acme_newsletter") == ["audience_upload"]
    assert deferred("--page", "globex") == ["unsubscribes"]
