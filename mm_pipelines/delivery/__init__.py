"""People delivered to Custom Audiences: each once, none lost, whatever happens on the way.

What is delivered is frozen first (`delta`), sent in batches that a ledger knows (`sending`), and
what was acknowledged is who stands in the audience (`members`). `upload` and `removals` put these
together; nothing here knows of Dagster.
"""
