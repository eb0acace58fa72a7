"""What several Dagster-facing modules share.

`failures` translates errors of the subjects into Dagster's failures, retries and deferrals,
`passing_faults` recognizes those of PostgreSQL and of the object store, `deferrals` keeps work that
is postponed, and `priorities` orders queued runs. `orphaned_runs` reports the runs of a killed
stack.
"""
