"""Reports the runs that a killed stack left unfinished as failed, so that Dagster retries them.

The stack finds these runs before it starts Dagster, when no run can be alive. Without the report,
Dagster's run monitoring would ask the code server that started them, which is gone too.

Dagster does not retry a run whose backfill has ended, and a backfill ends when none of its runs is
unfinished. Its daemon checks that when it starts and then every 30 seconds, and looks for retries
every 5 seconds. So the runs are reported after the first check: the retries come before the next.
"""

import sys
import time
from collections.abc import Sequence

import dagster as dg

_MESSAGE = "The stack was stopped while this run was working."
_BACKFILLS = "BACKFILL"
_CHECK_SECONDS = 5.0
_GIVE_UP_SECONDS = 60.0


def report(run_ids: Sequence[str], daemon_started_at: float) -> None:
    """Report runs as failed, or as canceled if a person canceled them.

    The run retries of dagster.yaml apply to a failure without a failed step.

    Args:
        run_ids: The runs that were unfinished when the former stack was killed.
        daemon_started_at: When the daemon of this stack was started, in Unix seconds.
    """
    with dg.DagsterInstance.get() as instance:
        _await_first_check_of_backfills(instance, daemon_started_at)
        for record in instance.get_run_records(dg.RunsFilter(run_ids=list(run_ids))):
            run = record.dagster_run
            # A run that had not started may have been started by now.
            if run.is_finished or record.update_timestamp.timestamp() >= daemon_started_at:
                continue
            if run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, _MESSAGE)
            else:
                instance.report_run_failed(run, _MESSAGE)


def _await_first_check_of_backfills(instance: dg.DagsterInstance, since: float) -> None:
    give_up = time.monotonic() + _GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        heartbeat = instance.get_daemon_heartbeats().get(_BACKFILLS)
        if heartbeat is not None and heartbeat.timestamp >= since:
            # The daemon writes its heartbeat when the check begins.
            time.sleep(_CHECK_SECONDS)
            return
        time.sleep(0.2)


if __name__ == "__main__":
    report(sys.argv[2:], float(sys.argv[1]))
