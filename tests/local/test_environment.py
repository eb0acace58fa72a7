import multiprocessing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from mm_pipelines.local import secret_file
from mm_pipelines.local.environment import (
    Environment,
    MissingFileError,
    MixedStateError,
    checkout_file,
    dagster_database_url,
)
from mm_pipelines.local.ports import Ports, PortTakenError

SAMPLES = checkout_file("examples/mm.yaml")
SANDBOX = "http://127.0.0.1:8090"


def test_the_defaults_are_the_working_directory_and_the_real_graph_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = Environment.for_graph_api({})
    assert environment.home == tmp_path / ".mm"
    assert environment.dagster_home == tmp_path / ".mm/dagster"
    assert environment.config_path == tmp_path / "mm.yaml"
    assert environment.storage_url == str(tmp_path / ".mm/storage")
    assert environment.graph_api_url == "https://graph.facebook.com"
    assert environment.graph_api_version == "v26.0"
    assert list(tmp_path.iterdir()) == [], "looking wrote something"


def test_relative_paths_become_absolute_and_urls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Environment.resolve({"MM_STORAGE_URL": "files", "MM_HOME": "state"})
    assert relative.storage_url == str(tmp_path / "files")
    assert relative.home == tmp_path / "state"
    assert Environment.resolve({"MM_STORAGE_URL": "s3://b/x"}).storage_url == "s3://b/x"


def test_a_sandbox_gets_a_token_for_every_variable_that_mm_yaml_names(tmp_path: Path) -> None:
    variables = {"MM_HOME": str(tmp_path)}
    environment = Environment.for_sandbox(SANDBOX, variables)
    assert set(environment.sandbox_secrets) == {
        "MM_SYSTEM_USER_TOKEN",
        "ACME_PAGE_TOKEN",
        "GLOBEX_PAGE_TOKEN",
        "MM_APP_ID",
        "MM_APP_SECRET",
        "MM_WEBHOOK_VERIFY_TOKEN",
    }
    assert len(set(environment.sandbox_secrets.values())) == 6
    assert environment.config_path == SAMPLES
    assert list(tmp_path.iterdir()) == [], "looking wrote something"
    environment.record_sandbox()
    assert (tmp_path / "sandbox.json").stat().st_mode & 0o777 == 0o600


def test_a_sandboxs_tokens_are_created_once_and_reused(
    tmp_path: Path,
) -> None:
    variables = {"MM_HOME": str(tmp_path)}
    first = Environment.for_sandbox(SANDBOX, variables)
    first.record_sandbox()
    assert Environment.for_sandbox(SANDBOX, variables).sandbox_secrets == first.sandbox_secrets
    found = Environment.resolve(variables)
    assert found.sandbox
    assert found.sandbox_secrets == first.sandbox_secrets
    assert found.graph_api_url == SANDBOX


def test_given_secrets_override_generated_ones(tmp_path: Path) -> None:
    variables = {"MM_HOME": str(tmp_path), "MM_APP_SECRET": "given"}
    environment = Environment.for_sandbox(SANDBOX, variables)
    assert "MM_APP_SECRET" not in environment.sandbox_secrets


def test_a_home_of_the_sandbox_is_refused_for_the_real_graph_api(tmp_path: Path) -> None:
    variables = {"MM_HOME": str(tmp_path)}
    Environment.for_sandbox(SANDBOX, variables).record_sandbox()
    with pytest.raises(MixedStateError, match="add --sandbox, or set MM_HOME"):
        Environment.for_graph_api(variables)
    elsewhere = variables | {"MM_GRAPH_API_URL": "http://127.0.0.1:9"}
    assert Environment.for_graph_api(elsewhere).graph_api_url == "http://127.0.0.1:9"


def test_no_secret_is_in_the_repr(tmp_path: Path) -> None:
    variables = {
        "MM_HOME": str(tmp_path),
        "MM_DATABASE_URL": "postgresql://me:hidden@db/mm",
        "MM_SUPPRESSION_KEY": "hidden too",
    }
    environment = Environment.for_sandbox(SANDBOX, variables)
    shown = repr(environment)
    assert "hidden" not in shown
    assert not any(secret in shown for secret in environment.sandbox_secrets.values())


@pytest.mark.parametrize(
    ("plain", "options"),
    [
        (
            "postgresql://me:p%40ss@db.example:5433/mm?sslmode=require",
            "-c statement_timeout=900000 -c search_path=dagster",
        ),
        ("postgres://db/mm", "-c statement_timeout=900000 -c search_path=dagster"),
        (
            "postgresql://db/mm?options=-cwork_mem%3D8MB",
            "-cwork_mem=8MB -c search_path=dagster",
        ),
    ],
)
def test_dagsters_storage_is_the_schema_beside_ours(plain: str, options: str) -> None:
    url = make_url(dagster_database_url(plain))
    assert url.drivername == "postgresql+psycopg2"
    assert str(url.query["options"]).endswith(options)
    assert url.query["connect_timeout"] == "10"
    before = make_url(plain)
    assert (url.host, url.port, url.password, url.database) == (
        before.host,
        before.port,
        before.password,
        before.database,
    )
    assert url.query.get("sslmode") == before.query.get("sslmode")


def _read_or_create(path: Path) -> str:
    return secret_file.read_or_create(path, lambda: multiprocessing.current_process().name)


def test_processes_that_race_to_make_a_secret_all_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "home/secret"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_read_or_create, [path] * 16))) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_a_taken_port_is_named_and_another_one_found() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = Ports(ui=taken.getsockname()[1])
        with pytest.raises(PortTakenError, match="--port"):
            ports.require_free(sandbox=True)
        others = ports.free_or_others()
    assert others.ui != ports.ui
    assert len({others.ui, others.receiver, others.sandbox}) == 3


def test_a_missing_project_file_is_named_in_the_error() -> None:
    with pytest.raises(MissingFileError, match="work in a checkout"):
        checkout_file("examples/nothing.yaml")
