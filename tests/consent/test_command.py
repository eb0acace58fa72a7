"""`mm unsubscribe`."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mm_pipelines.cli import app
from tests.consent.page import Page


@pytest.fixture(autouse=True)
def installation(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MM_HOME", str(tmp_path))
    monkeypatch.setenv("MM_CONFIG", str(Path(__file__).parents[1] / "mm.yaml"))
    monkeypatch.setenv("MM_DATABASE_URL", page.database.url)


def mm(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["unsubscribe", *arguments], input=typed)


def test_a_request_is_recorded_and_carried_out_like_any_other(page: Page) -> None:
    done = mm("--page", "acme", "--email", "mary@example.com", "--json")
    assert json.loads(done.stdout) == {"page": "acme", "recorded": 1, "open": 1}
    assert page.unsubscribe().confirmed == 1


def test_an_address_may_be_said_on_standard_input(page: Page) -> None:
    assert mm("--page", "acme", "--email", "-", typed="mary@example.com\n").exit_code == 0
    assert page.rows("select email from mm.unsubscribe_request") == [("mary@example.com",)]
    assert "name the person" in mm("--page", "acme", "--email", "-", typed="").stderr


def test_a_request_without_identifier_or_with_an_unknown_page_is_refused(page: Page) -> None:
    assert "name the person" in mm("--page", "acme", "--email", " ").stderr
    unknown = mm("--page", "acne", "--psid", "1")
    assert unknown.exit_code == 1
    assert "known are acme, globex" in unknown.stderr
    assert page.rows("select from mm.unsubscribe_request") == []
