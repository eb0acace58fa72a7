"""A client of the parts of Meta's Graph API that grow and keep a Page's audience.

`client` makes calls; `custom_audiences`, `users`, `tokens`, `unsubscribe`, `messages`,
`subscriptions` and `access_tokens` are functions over it, one module per family of edges; `errors`
draws the tree of what can go wrong. It knows nothing of Dagster or of the database.
"""
