"""`python -m mm_pipelines.cli`: how the stack starts its own commands."""

from mm_pipelines.cli import app

app(prog_name="mm")
