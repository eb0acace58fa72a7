"""The alert rules in deploy/, by Prometheus' own tool."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
MIGRATIONS = Path(__file__).parents[2] / "mm_pipelines/warehouse/migrations/versions"


def test_the_rules_name_only_items_of_the_view() -> None:
    named = set()
    for items in re.findall(r'item=~?"([^"]+)"', (RULES / "rules.yml").read_text()):
        named |= set(items.split("|"))
    assert named == set(re.findall(r"select '(\w+)',", _health_view()))


def _health_view() -> str:
    (migration,) = MIGRATIONS.glob("*_health.py")
    return migration.read_text().partition("create view mm.health as")[2]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: Debian's prometheus")
def test_the_rules_alert_when_they_should() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"],
        cwd=RULES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
