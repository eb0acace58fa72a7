"""Report the runs that a killed stack left in the middle, so that Dagster starts them again.

Dagster's default launcher asks the code server that started a run what became of it. When that has
died as well, the run stays "started" for ever, and keeps its audience's slot in the queue. Which
runs they are is asked while no stack runs: then no run can be alive.

Dagster does not start a run again whose backfill is over, and a backfill is over when none of its
runs is left; its daemon looks when it starts, and then every 30 seconds. So the runs are reported
just after that first look: the retries, which are looked for every 5 seconds, come before the next.
"""

import sys
import time
from collections.abc import Sequence

import dagster as dg

_MESSAGE = "The stack was stopped while this run was working."
_BACKFILLS = "BACKFILL"
_LOOK_SECONDS = 5.0
_GIVE_UP_SECONDS = 60.0


def settle(run_ids: Sequence[str], daemon_started_at: float) -> None:
    """Mark runs as failed, or as canceled if that was asked for.

    A failure without a failed step is what the instance's run retries act on (dagster.yaml).

    Args:
        run_ids: Runs that were under way when the stack before this one was killed.
        daemon_started_at: When Dagster's daemon of this stack was started, in Unix seconds.
    """
    with dg.DagsterInstance.get() as instance:
        _await_the_first_look_at_backfills(instance, daemon_started_at)
        for record in instance.get_run_records(dg.RunsFilter(run_ids=list(run_ids))):
            run = record.dagster_run
            # One that never began may have been begun by now.
            if run.is_finished or record.update_timestamp.timestamp() >= daemon_started_at:
                continue
            if run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, _MESSAGE)
            else:
                instance.report_run_failed(run, _MESSAGE)


def _await_the_first_look_at_backfills(instance: dg.DagsterInstance, since: float) -> None:
    give_up = time.monotonic() + _GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        heartbeat = instance.get_daemon_heartbeats().get(_BACKFILLS)
        if heartbeat is not None and heartbeat.timestamp >= since:
            # The heartbeat tells that the look has begun.
            time.sleep(_LOOK_SECONDS)
            return
        time.sleep(0.2)


if __name__ == "__main__":
    settle(sys.argv[2:], float(sys.argv[1]))
