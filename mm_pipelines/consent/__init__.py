"""Consent: opt-outs, opt-in requests, and what people decide on Messenger.

- Opt-outs: `opt_out_requests` stores them, `identifiers` validates what they name, `opt_outs`
  carries them out, `unsubscribe_bisection` finds the rows that Meta refuses, `audience_cleanup`
  removes opted-out people from Custom Audiences.
- Opt-in requests: `optin_requests` sends them, `optin_request_ledger` prevents a second one.
- Messenger: `messenger_events` applies webhooks, `messenger_consent` and `conversations` hold the
  result.

Nothing here knows Dagster.
"""
