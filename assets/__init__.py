"""The asset graph: one file per asset, imported as ``mm_pipelines.assets``."""
