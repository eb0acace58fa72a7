import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import psycopg2
import pytest
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from mm_pipelines.local.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]

TOKEN = """
insert into mm.subscription_token
    (page_id, token, recipient_id, source, first_seen_at, last_seen_at, gone_at)
values (%s, %s, %s, 'opt_in', now(), now(), %s)
"""


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The MM_HOME of an installation on the sample mm.yaml."""
    for name in [name for name in os.environ if name.startswith("MM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MM_HOME", str(home))
    monkeypatch.setenv("MM_CONFIG", str(ROOT / "examples/mm.yaml"))
    return home


def mm(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def exports(text: str) -> dict[str, str]:
    lines = [line.removeprefix("export ") for line in text.splitlines()]
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def test_an_unknown_command_is_named_in_the_error() -> None:
    refused = mm("sned")
    assert refused.exit_code == 2
    assert "sned" in refused.stderr


def test_help_loads_no_driver_and_no_frame_library() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from mm_pipelines.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([name for name in ('polars', 'sqlalchemy', 'dagster') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_env_prints_the_variables_that_dagster_needs(home: Path) -> None:
    done = mm("env")
    assert done.exit_code == 0, done.output
    variables = exports(done.stdout)
    assert variables["MM_HOME"] == str(home)
    assert variables["DAGSTER_HOME"] == str(home / "dagster")
    assert (home / "dagster/dagster.yaml").exists()
    assert variables["MM_DATABASE_URL"].startswith("postgresql://")
    # The database runs, and Dagster's tables will be made in their own schema of it.
    plain = variables["MM_DAGSTER_DATABASE_URL"].replace("postgresql+psycopg2:", "postgresql:")
    connection = psycopg2.connect(plain)
    with connection, connection.cursor() as cursor:
        cursor.execute("select current_schema(), to_regclass('mm.upload_batch') is not null")
        assert cursor.fetchone() == ("dagster", True)
    connection.close()


def test_env_is_idempotent(home: Path) -> None:
    assert mm("env").stdout == mm("env").stdout
    key = home / "suppression.key"
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_password_is_masked_in_the_databases_address(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_DATABASE_URL", "postgres://me:secret@db.example/mm?sslmode=require")
    shown = mm("db", "url")
    assert shown.exit_code == 0
    assert "secret" not in shown.output
    assert "me:***@db.example/mm" in shown.output


@pytest.mark.parametrize("command", [("status",), ("db", "backup", "never-written.dump")])
def test_a_database_that_does_not_answer_is_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MM_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/mm")
    refused = mm(*command)
    assert refused.exit_code == 1
    assert "the database does not answer" in refused.stderr
    assert "secret" not in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.parametrize(
    "command",
    [("db", "url"), ("env",), ("status",), ("config", "check"), ("db", "backup", "unwritten.dump")],
)
def test_an_invalid_database_url_is_one_sentence_without_the_password(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MM_DATABASE_URL", "postgresql://mm:pass@word:1@db.example/mm")
    refused = mm(*command)
    assert refused.exit_code == 1
    assert "is not a postgresql:// address" in refused.stderr
    assert "word:1" not in refused.output
    assert "1@db" not in refused.output


def test_config_check_names_every_fault_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "mm.yaml"
    broken.write_text((ROOT / "examples/mm.yaml").read_text().replace("page: acme", "page: acne"))
    monkeypatch.setenv("MM_CONFIG", str(broken))
    monkeypatch.setenv("MM_DATABASE_URL", "mysql://db.example/mm")
    monkeypatch.setenv("MM_GRAPH_API_URL", "http://127.0.0.1:port")
    refused = mm("config", "check")
    assert refused.exit_code == 1
    assert refused.stderr.count("there is no page 'acne'") == 2
    assert "MM_DATABASE_URL: names mysql, not PostgreSQL" in refused.stderr
    assert "MM_GRAPH_API_URL: is not an http:// or https:// address" in refused.stderr
    assert "4 faults found" in refused.stderr


def test_config_check_names_the_variables_that_are_missing(home: Path) -> None:
    refused = mm("config", "check")
    assert refused.exit_code == 1
    for name in ("MM_SYSTEM_USER_TOKEN", "ACME_PAGE_TOKEN", "MM_APP_SECRET"):
        assert f"{name}: is not set" in refused.stderr


def test_the_status_of_a_new_installation_is_empty_and_available_as_json(home: Path) -> None:
    shown = mm("status", "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == {
        "partitions": [],
        "paused": [],
        "deferred": [],
        "pages": [],
        "webhooks": [],
        "rejections": [],
    }
    assert json.loads(mm("audiences", "--json").stdout) == []
    assert "No Custom Audience" in mm("audiences").stdout
    assert json.loads(mm("uploads", "--json").stdout) == []
    assert "no open delivery" in mm("uploads", "abandon", "acme_newsletter").stdout
    assert "bound to no Custom Audience" in mm("audiences", "forget", "acme_newsletter").stdout
    assert "has no audience 'acme'" in mm("audiences", "adopt", "acme", "1").stderr
    assert not EmbeddedPostgres(home).is_running(), "a command left its server behind"


def test_only_sendable_tokens_are_exported_to_a_private_file(home: Path, tmp_path: Path) -> None:
    assert mm("db", "upgrade").exit_code == 0
    with EmbeddedPostgres(home).running() as url:
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute(TOKEN, ["134141414124123", "token-b", None, None])
            cursor.execute(TOKEN, ["134141414124123", "token-a", "psid-1", None])
            cursor.execute(TOKEN, ["134141414124123", "token-gone", None, "2026-11-20"])
            cursor.execute(TOKEN, ["245252525235234", "token-c", None, None])
        connection.close()
        csv = mm("tokens", "export").stdout
        assert [line.split(",")[1] for line in csv.splitlines()] == [
            "token",
            "token-a",
            "token-b",
            "token-c",
        ]
        file = tmp_path / "acme.parquet"
        assert mm("tokens", "export", "-o", str(file), "--page", "acme").exit_code == 0
        assert pl.read_parquet(file)["token"].to_list() == ["token-a", "token-b"]
        assert file.stat().st_mode & 0o777 == 0o600
        refused = mm("tokens", "export", "--page", "acne")
        assert refused.exit_code == 1
        assert "known are acme, globex" in refused.stderr


def test_the_embedded_database_is_deleted_only_after_confirmation(home: Path) -> None:
    assert mm("db", "upgrade").exit_code == 0
    data = home / "postgres"
    assert CliRunner().invoke(app, ["db", "remove"], input="n\n").exit_code == 1
    assert data.exists()
    assert mm("db", "remove", "--yes").exit_code == 0
    assert not data.exists()


def test_a_backup_replaces_data_of_another_major_version(home: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "mm.dump")
    assert mm("db", "upgrade").exit_code == 0
    with EmbeddedPostgres(home).running() as url:
        insert_token(url)
    done = mm("db", "backup", file)
    assert done.exit_code == 0, done.output
    assert str(home / "suppression.key") in done.stdout
    assert str(home / "storage") in done.stdout
    data = EmbeddedPostgres(home).log.parent / "data"
    (data / "PG_VERSION").write_text("9\n")
    assert mm("db", "restore", file).exit_code == 1

    restored = mm("db", "restore", "--replace", file)

    assert restored.exit_code == 0, restored.output
    assert "token-1" in mm("tokens", "export").stdout
    (kept,) = data.parent.glob("data.replaced-*")
    assert str(kept) in restored.stdout


def insert_token(url: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(TOKEN, ["134141414124123", "token-1", None, None])
    connection.close()


def test_an_external_database_is_never_deleted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM_DATABASE_URL", "postgresql://db.example/mm")
    refused = mm("db", "remove", "--yes")
    assert refused.exit_code == 1
    assert "not ours to delete" in refused.stderr


def test_the_receiver_does_not_start_without_its_secret(home: Path) -> None:
    refused = mm("webhooks")
    assert refused.exit_code == 1
    assert "MM_APP_SECRET is not set" in refused.stderr


def test_replay_refuses_an_invalid_time(home: Path) -> None:
    assert mm("webhooks", "replay", "--since", "yesterday").exit_code == 2
    assert mm("webhooks", "replay", "--since", "2026-11-20").stdout.startswith("0 events")


def test_a_home_that_cannot_be_written_is_one_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MM_HOME", str(tmp_path / "file/home"))
    refused = mm("env")
    assert refused.exit_code == 1
    assert "not a directory. Run as the user who owns it, or set MM_HOME" in refused.stderr


def test_a_full_disk_is_one_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_CONFIG", str(tmp_path / "mm.yaml"))
    (tmp_path / ".mm.yaml.draft").symlink_to("/dev/full")
    answers = "\n".join(["", "1", "2", *[""] * 6]) + "\n"
    refused = CliRunner().invoke(app, ["init"], input=answers)
    assert refused.exit_code == 1
    assert "no space left on device. Free some space" in refused.stderr
