"""Consent: opt-outs, opt-in requests, and what people decide on Messenger.

- Opt-outs: `opt_out_requests` stores them, `identifiers` validates what they name, `opt_outs`
  carries them out, `unsubscribe_bisection` finds the rows that Meta refuses, `follow_up_pulls` says
  which Pages need a pull. `member_digests` and `audience_search` find the Custom Audiences that
  contain opted-out people, and `audience_cleanup` removes them there.
- Opt-in requests: `optin_requests` sends them, `optin_request_ledger` prevents a second one.
- Messenger: `messenger_events` applies webhooks, `messenger_consent` and `conversations` hold the
  result.

Nothing here knows Dagster.
"""
