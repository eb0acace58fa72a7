"""A client of the parts of Meta's Graph API that grow and keep a Page's audience.

`client` makes calls. `custom_audiences`, `users`, `tokens`, `unsubscribe`, `messages`,
`subscriptions` and `access_tokens` are functions over it, one module per family of edges. `errors`
contains the tree of errors. The package does not depend on Dagster or the database.
"""
