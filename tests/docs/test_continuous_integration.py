"""What CI and pre-commit run is what the Makefile runs, on every Python that is supported."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def _load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_ci_tests_every_python_that_has_locked_requirements() -> None:
    workflow = _load(".github/workflows/test.yml")
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    locked = (ROOT / "requirements").glob("py*.txt")
    assert sorted(versions) == sorted(f"3.{path.stem.removeprefix('py3')}" for path in locked)


def test_pre_commit_runs_the_tools_of_the_makefile() -> None:
    hooks = _load(".pre-commit-config.yaml")["repos"][0]["hooks"]
    hooked = {Path(hook["entry"].split()[0]).name for hook in hooks if hook["language"] == "system"}
    recipes = (ROOT / "Makefile").read_text(encoding="utf-8")
    checks = re.search(r"^lint:.*?^test:", recipes, re.MULTILINE | re.DOTALL)
    assert checks is not None
    assert hooked >= set(re.findall(r"\$\(BIN\)/([\w-]+)", checks.group()))
