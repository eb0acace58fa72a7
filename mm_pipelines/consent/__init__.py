"""People leave and join: requests to leave, opt-in requests, and what people say on Messenger.

`leaving` carries out requests to leave: `identifiers` reads them, `tracing` sends them to Meta and
finds the rows that Meta refuses, `leavers` tells who of some people has left, `sweeping` takes them
out of every Custom Audience. `asking` sends opt-in requests; `said` reads what people said by
webhook; `growth` counts it all. Nothing here knows of Dagster.
"""
