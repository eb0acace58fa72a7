"""Opt-outs and senders' files always find a slot of the queue."""

from pathlib import Path

import pytest
import yaml

import mm_pipelines
from mm_pipelines.definitions import defs
from mm_pipelines.jobs import ASSETS_BY_JOB
from mm_pipelines.orchestration.priorities import PRIORITY_TAG, SHARED_SLOT, priority_tags

SETTINGS = Path(mm_pipelines.__file__).parent / "local" / "dagster.yaml"


def test_the_limit_of_the_shared_slots_leaves_one_free() -> None:
    runs = yaml.safe_load(SETTINGS.read_text())["concurrency"]["runs"]
    (tag,) = SHARED_SLOT
    limits = {limit["key"]: limit["limit"] for limit in runs["tag_concurrency_limits"]}
    assert limits[tag] == runs["max_concurrent_runs"] - 1


@pytest.mark.parametrize("asset", ["unsubscribes", "audience_removals", "sendable_tokens"])
def test_opt_outs_and_files_may_use_every_slot(asset: str) -> None:
    assert SHARED_SLOT.keys().isdisjoint(priority_tags(asset))


def test_opt_outs_come_first_and_uploads_last() -> None:
    order = ["unsubscribes", "sendable_tokens", "match_status", "subscription_tokens"]
    priorities = [int(priority_tags(asset)[PRIORITY_TAG]) for asset in [*order, "audience_upload"]]
    assert priorities == sorted(priorities, reverse=True)
    assert SHARED_SLOT.items() <= priority_tags("audience_upload").items()


@pytest.mark.parametrize("job", ASSETS_BY_JOB)
def test_whole_jobs_leave_a_slot_free(job: str) -> None:
    assert SHARED_SLOT.items() <= defs.resolve_job_def(job).tags.items()
