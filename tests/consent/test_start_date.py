"""Consent has no start date."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

LOOK = """
import sys
from mm_pipelines.definitions import defs
from mm_pipelines.partitions import AUDIENCE_BY_DAY, PAGE_BY_DAY, AudienceDay, PageDay
from datetime import date
days = [date.fromisoformat(day) for day in sys.argv[1:]]
print(*(PAGE_BY_DAY.has_partition_key(PageDay("acme", day).key) for day in days))
print(*(AUDIENCE_BY_DAY.has_partition_key(AudienceDay("acme_newsletter", day).key) for day in days))
"""


def test_a_start_date_in_the_future_stops_uploads_and_no_opt_out(tmp_path: Path) -> None:
    config = (Path(__file__).parents[1] / "mm.yaml").read_text()
    now = datetime.now(UTC)
    later = (now + timedelta(days=30)).date()
    (tmp_path / "mm.yaml").write_text(
        config.replace("start_date: 2026-11-18", f"start_date: {later}")
    )
    days = [str((now - timedelta(days=back)).date()) for back in (0, 1)]
    shown = subprocess.run(
        [sys.executable, "-c", LOOK, *days],
        env={**os.environ, "MM_CONFIG": str(tmp_path / "mm.yaml")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert shown.splitlines() == ["True True", "False False"]
