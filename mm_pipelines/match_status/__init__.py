"""Meta's processing of each day's batches.

`assignments` assigns each webhook to a batch, `observations` stores the answers to polls,
`partition_status` computes the row of an audience's day, and `due` lists the
days whose row is out of date.
"""
