"""What several Dagster-facing modules share.

`failures` translates the errors of assets into Dagster's failures and retries, `passing_faults`
recognizes faults of PostgreSQL and of the object store that pass, `long_waits` defers what has to
wait longer and `deferrals` stores it. `checks` makes partitioned checks, `priorities` orders queued
runs, and `orphaned_runs` reports the runs of a killed stack.
"""
