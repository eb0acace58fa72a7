"""Erases people: removes their data here, asks Meta, and keeps a receipt without identifiers.

`requests` stores who is to be erased, `erase` carries it out, `person_rows` removes rows,
`hashed_files` searches the storage, `receipts` records what was found and what became of it.
"""
