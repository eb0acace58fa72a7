"""The wheel installs one package and works beside other packages called ``assets``."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

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


def test_the_installed_wheel_loads_beside_a_package_called_assets(
    wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # The libraries of this environment, without the path to the checkout that is beside them.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], check=True
    )
    (site / "assets").mkdir()
    (site / "assets" / "__init__.py").write_text('WHOSE = "another team"\n')
    loaded = subprocess.run(
        [python, "-c", LOAD],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "MM_CONFIG": str(ROOT / "tests" / "mm.yaml")},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(loaded.stdout)
    assert found["dummy"] == "another team"
    assert Path(found["from"]).is_relative_to(site)
    assert {"customer_list", "audience_upload", "subscription_tokens"} <= set(found["assets"])
