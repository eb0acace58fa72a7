"""Pulling a Page's subscription tokens, asking about single ones, and handing them on."""
