"""Delivers people to Custom Audiences; no acknowledged batch is sent again, whatever is killed.

New people are written to an immutable file first (`deltas`) and sent in batches that the ledger
records (`sender`, `ledger`). The acknowledged people are the members (`membership`). `upload`
combines these steps with removals that fall due meanwhile (`due_removals`) and with members who
fill up small uploads (`top_up`); `removal_lists` removes people. The package does not depend on
Dagster.
"""
