"""`mm init`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from mm_pipelines.config import load_config

PAGE_ID, ACCOUNT_ID = "134141414124123", "act_12348141984909088"
DEFAULTS = [""] * 6


def init(*answers: str) -> Result:
    return CliRunner().invoke(app, ["init"], input="\n".join(answers) + "\n")


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where mm.yaml is to be written."""
    monkeypatch.setenv("MM_CONFIG", str(tmp_path / "mm.yaml"))
    return tmp_path / "mm.yaml"


def test_the_answers_become_a_valid_mm_yaml(path: Path) -> None:
    path_of_lists = "s3://lists/{audience}/{day}.csv"
    shown = init("", PAGE_ID, ACCOUNT_ID, "shop", "Shop", "", "NO", path_of_lists, "")
    assert shown.exit_code == 0, shown.output
    config = load_config(path)
    assert config.pages["acme"].page_id == PAGE_ID
    assert config.audiences["shop"].ad_account_id == "12348141984909088"
    assert config.audiences["shop"].default_country == "NO"
    assert "ACME_PAGE_TOKEN" in shown.stdout
    assert [entry.name for entry in path.parent.iterdir()] == ["mm.yaml"]


def test_a_wrong_answer_is_asked_again_and_the_others_are_kept(path: Path) -> None:
    shown = init("", "my page", ACCOUNT_ID, *DEFAULTS, "", PAGE_ID, "", *DEFAULTS)
    assert shown.exit_code == 0, shown.output
    assert "pages.acme.page_id: an id at Meta is 1 to 20 digits" in shown.stderr
    assert load_config(path).pages["acme"].page_id == PAGE_ID


def test_an_existing_file_is_not_changed(path: Path) -> None:
    path.write_text("mine")
    shown = init()
    assert shown.exit_code == 1
    assert "exists already" in shown.stderr
    assert path.read_text() == "mine"


def test_stopping_in_the_middle_writes_nothing(path: Path) -> None:
    assert init("acme").exit_code == 1
    assert list(path.parent.iterdir()) == []
