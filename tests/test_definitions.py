"""The code location as Dagster loads it."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

from mm_pipelines.definitions import defs
from mm_pipelines.partitions import AUDIENCE, AUDIENCE_BY_DAY, PAGE

CONTRACT = {
    "customer_list": AUDIENCE_BY_DAY,
    "hashed_payload": AUDIENCE_BY_DAY,
    "custom_audience": AUDIENCE,
    "audience_upload": AUDIENCE_BY_DAY,
    "match_status": AUDIENCE_BY_DAY,
    "subscription_tokens": PAGE,
}

IMPORT_UNDER_WATCH = """
import sys
import dagster, polars, sqlalchemy, httpx, dagster_postgres, pydantic

watched = ("socket.connect", "subprocess.Popen", "sqlite3.connect")
writing = "wax+"

def watch(event, arguments):
    if event in watched:
        raise RuntimeError(f"import did {event}")
    if event == "open" and isinstance(arguments[0], str):
        path, mode = arguments[0], arguments[1] or "r"
        if any(letter in mode for letter in writing) and not path.endswith(".pyc") \\
                and "__pycache__" not in path:
            raise RuntimeError(f"import wrote {path}")
        if path.endswith((".csv", ".parquet", ".env")):
            raise RuntimeError(f"import read {path}")

sys.addaudithook(watch)
import mm_pipelines.definitions
"""


def specs() -> list[dg.AssetSpec]:
    """The specs of our own assets, without the stubs of other teams' assets."""
    stub = "dagster/auto_created_stub_asset"
    return [spec for spec in defs.resolve_all_asset_specs() if stub not in spec.metadata]


def test_the_assets_of_the_contract_are_there_with_their_partitions() -> None:
    found = {spec.key.to_user_string(): spec.partitions_def for spec in specs()}
    assert {key: found[key] for key in CONTRACT} == CONTRACT


def test_every_asset_has_a_description_and_an_owner() -> None:
    for spec in specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.group_name, spec.key
        assert spec.group_name != "default", spec.key
        assert spec.kinds, spec.key


def test_every_asset_shows_its_columns_or_is_no_table() -> None:
    for spec in specs():
        assert "dagster/column_schema" in spec.metadata or "file" in spec.kinds, spec.key


@pytest.mark.parametrize("name", ["daily_upload", "token_refresh"])
def test_the_schedules_of_the_contract_are_there(name: str) -> None:
    assert defs.resolve_schedule_def(name).name == name


@pytest.mark.parametrize("name", ["upload_status_sensor", "optin_sensor", "customer_list_sensor"])
def test_the_sensors_of_the_contract_are_there(name: str) -> None:
    assert defs.resolve_sensor_def(name).name == name


@pytest.mark.parametrize("name", ["upload_status_sensor", "optin_sensor"])
def test_what_acts_on_webhooks_looks_at_every_turn_of_the_daemon(name: str) -> None:
    # A tick is noted later than its turn began: an interval as long as a turn skips every other.
    interval = defs.resolve_sensor_def(name).minimum_interval_seconds
    assert interval is not None
    assert interval <= MIN_INTERVAL_LOOP_TIME / 2


def test_one_job_holds_the_days_chain() -> None:
    job = defs.resolve_job_def("daily_upload")
    assert job.partitions_def == AUDIENCE_BY_DAY
    assert {node.name for node in job.nodes} == {
        "customer_list",
        "hashed_payload",
        "audience_upload",
        "match_status",
    }


def test_todays_list_has_its_partition() -> None:
    days = AUDIENCE_BY_DAY.get_partitions_def_for_dimension("day")
    newest = days.get_last_partition_key()
    assert newest is not None
    assert newest == datetime.now(UTC).date().isoformat()


def test_importing_does_no_io_but_reading_the_configuration() -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "MM_CONFIG": str(Path(__file__).parent / "mm.yaml"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_UNDER_WATCH],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert result.returncode == 0, result.stderr


def test_loading_without_the_environment_says_how_to_set_it() -> None:
    variables = {"PATH": os.environ["PATH"], "MM_CONFIG": str(Path(__file__).parent / "mm.yaml")}
    loaded = subprocess.run(
        [sys.executable, "-c", "import mm_pipelines.definitions"],
        env=variables,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "MM_DATABASE_URL, MM_STORAGE_URL, MM_SUPPRESSION_KEY not set" in loaded.stderr
    assert 'run eval "$(mm env)" in this shell' in loaded.stderr


@pytest.mark.slow
def test_dagsters_dg_command_works_in_the_checkout() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [Path(sys.executable).parent / "dg", "check", "defs"],
        env={**os.environ, "MM_CONFIG": str(root / "examples" / "mm.yaml")},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All definitions loaded successfully" in done.stdout + done.stderr
