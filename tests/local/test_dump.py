"""Backups of a database, and restoring them."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from mm_pipelines.local.postgres import DumpError, EmbeddedPostgres
from mm_pipelines.local.postgres.dump import backup, restore
from mm_pipelines.warehouse import migrate
from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import upgrade

TOKEN = """
insert into mm.subscription_token
    (page_id, token, recipient_id, source, first_seen_at, last_seen_at)
select '134', 'token-' || number, 'psid-' || number, 'opt_in', now(), now()
from generate_series(1, 1000) number
"""


@pytest.fixture
def filled(database: Database) -> Database:
    """A database with 1,000 tokens and a table of Dagster's."""
    with database.transaction() as connection:
        connection.execute(text(TOKEN))
        connection.execute(text("create table dagster.runs as select 7 as id"))
    database.dispose()
    return database


def count_tokens(database: Database) -> int:
    with database.transaction() as connection:
        count: int = connection.scalar(text("select count(*) from mm.subscription_token")) or 0
    database.dispose()
    return count


def wipe(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("drop schema mm, dagster cascade"))
    database.dispose()


def test_a_wiped_database_is_restored_from_its_backup(filled: Database, tmp_path: Path) -> None:
    file = tmp_path / "mm.dump"
    backup(filled.url, file, None)
    assert file.stat().st_mode & 0o777 == 0o600
    wipe(filled)

    restore(filled.url, file, None, replace=False)

    assert count_tokens(filled) == 1000
    assert migrate.current(filled) == migrate.head()
    with filled.transaction() as connection:
        assert connection.scalar(text("select id from dagster.runs")) == 7


def test_restoring_replaces_newer_rows_and_unknown_tables(filled: Database, tmp_path: Path) -> None:
    file = tmp_path / "mm.dump"
    backup(filled.url, file, None)
    with filled.transaction() as connection:
        connection.execute(text("delete from mm.subscription_token where token > 'token-5'"))
        connection.execute(text("create table mm.of_a_newer_version (id int)"))
    filled.dispose()
    with pytest.raises(DumpError, match="not empty: add --replace"):
        restore(filled.url, file, None, replace=False)

    restore(filled.url, file, None, replace=True)

    assert count_tokens(filled) == 1000
    with filled.transaction() as connection:
        assert connection.scalar(text("select to_regclass('mm.of_a_newer_version')")) is None


def test_an_existing_file_is_not_overwritten(filled: Database, tmp_path: Path) -> None:
    file = tmp_path / "mm.dump"
    file.write_text("kept")
    with pytest.raises(DumpError, match="exists already"):
        backup(filled.url, file, None)
    assert file.read_text() == "kept"


def test_a_failed_backup_leaves_no_file(filled: Database, tmp_path: Path) -> None:
    wipe(filled)
    with pytest.raises(DumpError, match="no matching schemas"):
        backup(filled.url, tmp_path / "mm.dump", None)
    assert list(tmp_path.iterdir()) == []


def test_a_restore_is_refused_while_the_database_is_in_use(
    filled: Database, tmp_path: Path
) -> None:
    file = tmp_path / "mm.dump"
    backup(filled.url, file, None)
    with filled.transaction() as connection:
        connection.execute(text("select 1"))
        with pytest.raises(DumpError, match="in use by 1 other sessions"):
            restore(filled.url, file, None, replace=True)
    assert count_tokens(filled) == 1000


def test_a_damaged_backup_changes_nothing(filled: Database, tmp_path: Path) -> None:
    file = tmp_path / "mm.dump"
    backup(filled.url, file, None)
    for kept in (0.3, 0.9, 0.999):
        half = tmp_path / "half.dump"
        half.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
        with pytest.raises(DumpError):
            restore(filled.url, half, None, replace=True)
        assert count_tokens(filled) == 1000


def test_a_file_of_another_format_is_refused(filled: Database, tmp_path: Path) -> None:
    file = tmp_path / "mm.sql"
    file.write_text("drop schema mm cascade;")
    with pytest.raises(DumpError, match="was not written by `mm db backup`"):
        restore(filled.url, file, None, replace=True)
    with pytest.raises(DumpError, match="No such file"):
        restore(filled.url, tmp_path / "missing", None, replace=True)


RESTORE = """
import sys
from pathlib import Path
from mm_pipelines.local.postgres.dump import restore
restore(sys.argv[1], Path(sys.argv[2]), None, replace=True)
"""


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.2])
def test_a_restore_that_is_killed_restores_all_or_nothing(
    filled: Database, tmp_path: Path, seconds: float
) -> None:
    with filled.transaction() as connection:
        connection.execute(text(TOKEN.replace("1, 1000", "1001, 100000")))
    filled.dispose()
    file = tmp_path / "mm.dump"
    backup(filled.url, file, None)
    with filled.transaction() as connection:
        connection.execute(text("truncate mm.subscription_token cascade"))
    filled.dispose()
    process = subprocess.Popen([sys.executable, "-c", RESTORE, filled.url, str(file)])
    wait_for_client(psutil.Process(process.pid), "psql")
    time.sleep(seconds)
    process.kill()
    process.wait()
    # The statement waits for the locks of a restore that is still being rolled back.
    assert count_tokens(filled) in (0, 100_000)


def test_no_password_is_visible_in_the_list_of_processes(filled: Database, tmp_path: Path) -> None:
    url = filled.url.replace("postgres@", "postgres:the-password@", 1)
    assert "the-password" in url
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for child in psutil.Process().children(recursive=True):
                try:
                    seen.append(" ".join(child.cmdline()))
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        backup(url, tmp_path / "mm.dump", None)
        restore(url, tmp_path / "mm.dump", None, replace=True)
    finally:
        stop.set()
        watcher.join()
    assert any("pg_dump --dbname" in command for command in seen)
    assert any("psql --dbname" in command for command in seen)
    assert not any("the-password" in command for command in seen)


def test_a_backup_moves_the_data_to_a_newer_major_version(home: Path, tmp_path: Path) -> None:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        pytest.skip("no PostgreSQL installed on this system")
    older = programs[0].parent
    file = tmp_path / "mm.dump"
    server = EmbeddedPostgres(home, binaries=older, durable=False)
    database = Database(server.start())
    upgrade(database)
    with database.transaction() as connection:
        connection.execute(text(TOKEN))
    database.dispose()
    backup(database.url, file, older)
    server.stop()

    newer = EmbeddedPostgres(home, durable=False)
    kept = newer.replace_data()
    restore(newer.start(), file, None, replace=False)

    assert kept is not None
    assert kept.is_dir()
    assert count_tokens(database) == 1000


def wait_for_client(process: psutil.Process, name: str) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        if any(child.name() == name for child in process.children()):
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} did not start")
