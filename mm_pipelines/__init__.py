"""Grow and keep a Facebook Page's audience for the Marketing Messages API for Messenger."""
