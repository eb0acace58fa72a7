"""The demo, whole: what a newcomer sees first."""

import json
from typing import Any

import pytest

from tests.e2e.installation import Installation


def result_of(output: str) -> dict[str, Any]:
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("RESULT ")
    result: dict[str, Any] = json.loads(last.removeprefix("RESULT "))
    return result


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_is_idempotent_and_its_counts_agree(
    installation: Installation,
) -> None:
    first = installation.mm("demo")
    assert first.returncode == 0, first.stdout + first.stderr
    result = result_of(first.stdout)
    assert result["partitions"] == 9
    assert result["audiences"] == 3
    assert result["rows_read"] == (
        result["people_hashed"] + result["rows_rejected"] + result["rows_merged"]
    )
    assert result["rows_uploaded"] == result["rows_processed"] > 0
    assert result["tokens_sendable"] <= result["tokens_pulled"] - result["duplicates_removed"]
    assert installation.processes() == []

    second = installation.mm("demo")
    assert second.returncode == 0, second.stdout + second.stderr
    assert result_of(second.stdout) == result
    assert installation.processes() == []
