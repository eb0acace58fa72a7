"""The webhook receiver: verifies, parses and stores what Meta sends.

`signature` verifies a body, `envelope` parses it into events, `privacy` removes what people wrote,
`store` commits the events of many requests in one transaction, `app` is the ASGI application, and
`server` runs it. `webhook_event` and `page_event` hold the SQL.
"""
