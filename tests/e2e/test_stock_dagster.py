"""Under Dagster's own settings everything is delivered, without monitoring, retries or limits."""

from pathlib import Path

import pytest
from sqlalchemy import text

from mm_pipelines.local.demo import JOB
from tests.e2e.ledger import Ledger
from tests.e2e.lists import AUDIENCES, Lists
from tests.e2e.stock_stack import StockStack, stock_stack, wait_until


def statuses(stack: StockStack) -> dict[str, str]:
    with stack.database.transaction() as connection:
        rows = connection.execute(
            text("select audience || '|' || day as partition, status from mm.match_status")
        )
        return {row.partition: row.status for row in rows}


def everything_is_delivered_once(stack: StockStack, lists: Lists) -> list[int]:
    """How often the sandbox received each batch."""
    ledger = Ledger(stack.database.url)
    assert ledger.faults() == {}
    ledger.close()
    audiences = stack.sandbox("audiences")
    assert [audience["members"] for audience in audiences] == [lists.people] * len(audiences)
    with stack.database.transaction() as connection:
        batches = connection.scalar(text("select count(*) from mm.upload_batch"))
        assert connection.scalar(text("select count(*) from mm.deferred_work")) == 0
    received = [batch["times_received"] for batch in stack.sandbox("calls")["batches"]]
    assert len(received) == batches
    return received


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("days", [3, 10])
def test_a_backfill_of_three_audiences_ends_with_everything_delivered(
    home: Path, tmp_path: Path, days: int
) -> None:
    lists = Lists.write(tmp_path / "lists", of_days=days)
    with stock_stack(home, lists.config) as stack:
        stack.ui.launch_backfill(JOB, lists.partitions)
        wanted = dict.fromkeys(lists.partitions, "complete")
        wait_until(lambda: statuses(stack) == wanted, 3000, "every partition is complete")
        assert set(everything_is_delivered_once(stack, lists)) == {1}
        assert len(stack.sandbox("audiences")) == len(AUDIENCES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_work_of_a_killed_run_is_requested_again(home: Path, tmp_path: Path) -> None:
    lists = Lists.write(tmp_path / "lists", of_days=1)
    with stock_stack(home, lists.config) as stack:
        stack.control("faults", method="POST", path="*/users", nth=3, latency_seconds=15)
        stack.ui.launch_backfill(JOB, lists.partitions[:1])
        wait_until(lambda: _batches(stack) >= 3, 180, "the third batch is sent")
        (worker,) = stack.run_workers()
        worker.kill()
        wanted = {lists.partitions[0]: "complete"}
        wait_until(lambda: statuses(stack) == wanted, 600, "the partition is complete")
        # Only the batch that was not answered was sent twice.
        received = everything_is_delivered_once(stack, lists)
        assert sorted(received)[-2:] in ([1, 1], [1, 2])
        # The dead run does not keep its slot.
        wait_until(lambda: stack.ui.unfinished_runs() == [], 120, "no run is unfinished")


def _batches(stack: StockStack) -> int:
    with stack.database.transaction() as connection:
        return int(connection.scalar(text("select count(*) from mm.upload_batch")) or 0)
