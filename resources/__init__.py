"""Dagster resources: configuration only, imported as ``mm_pipelines.resources``."""
