"""What several Dagster-facing modules share.

`failures` translates errors of the subjects into Dagster's failures and retries. `orphaned_runs`
reports the runs of a killed stack.
"""
