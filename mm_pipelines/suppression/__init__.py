"""The suppression list: people who opted out by e-mail or phone, as keyed digests.

It lies below `payload`, `delivery` and `consent`, so that each of them can exclude opted-out people
without knowing how an opt-out arrives.
"""
