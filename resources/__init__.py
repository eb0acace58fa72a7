"""Dagster resources: configuration and lifetime only, each a thin door to a plain class."""
