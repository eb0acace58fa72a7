"""What mm.yaml may say about people who leave and join."""

from pathlib import Path

import pytest

from mm_pipelines.config import Config, ConfigError, load_config

PLAIN = (Path(__file__).parents[1] / "mm.yaml").read_text()
OPTIN = """    optin:
      title: News of Acme
      image_url: https://example.com/news.png
      payload: news
"""


def configured(tmp_path: Path, page: str) -> Config:
    path = tmp_path / "mm.yaml"
    assert OPTIN in PLAIN
    path.write_text(PLAIN.replace(OPTIN, page))
    return load_config(path)


def test_nothing_needs_to_be_said(tmp_path: Path) -> None:
    page = configured(tmp_path, "").pages["acme"]
    assert page.unsubscribes.path == "unsubscribes/{page}/{day}.csv"
    assert page.optin is None


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("    unsubscribes: {path: 'left/{audience}.csv'}\n", "unknown placeholder {audience}"),
        (OPTIN.replace("https:", "http:"), "must begin with https://"),
        (OPTIN.replace("News of Acme", "N" * 66), "at most 65 characters"),
        (OPTIN + "      cta: BUY\n", "GET_UPDATES"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, page: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(tmp_path, page)
    assert fault in str(raised.value)
