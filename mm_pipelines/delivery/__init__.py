"""Deliver people to Custom Audiences: each is sent once and none is lost, even if runs are killed.

New people are written to an immutable file first (`deltas`) and sent in batches that the ledger
records (`sender`, `ledger`). The acknowledged people are the members (`membership`). `upload` and
`removals` combine these steps. The package does not depend on Dagster.
"""
