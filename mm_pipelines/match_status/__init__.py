"""What became of each day's batches at Meta.

`assignments` decides which webhook means which batch, `observations` keeps the answers to polls,
`partition_status` computes the row of an audience's day, and `due` lists the days to compute again.
"""
