"""Report the runs that a killed stack left in the middle, so that Dagster starts them again.

Dagster's default launcher asks the code server that started a run what became of it. When that has
died as well, the run stays "started" for ever, and keeps its audience's slot in the queue. Run only
while no stack runs: then no run can be alive.
"""

import dagster as dg

_MESSAGE = "The stack was stopped while this run was working."


def settle() -> int:
    """Mark every run that is under way as failed, or as canceled if that was asked for.

    A failure without a failed step is what the instance's run retries act on (dagster.yaml).

    Returns:
        How many there were.
    """
    statuses = [
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs(dg.RunsFilter(statuses=statuses))
        for run in runs:
            if run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, _MESSAGE)
            else:
                instance.report_run_failed(run, _MESSAGE)
        return len(runs)


if __name__ == "__main__":
    settle()
