"""Importing the code location against importing Dagster and Polars alone."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.figure import Figure, median_seconds

EXAMPLE = Path(__file__).parent.parent / "examples" / "mm.yaml"


def run() -> list[Figure]:
    """Seconds to a loaded code location, in a fresh interpreter each time."""
    ours = median_seconds(lambda: _import("mm_pipelines.definitions"), runs=5)
    alone = median_seconds(lambda: _import("dagster, polars"), runs=5)
    return [
        Figure(
            "import of the code location",
            ours,
            "s",
            against=alone,
            peer="import dagster, polars",
            target="at most 1.5 times",
        )
    ]


def _import(modules: str) -> None:
    environment = {**os.environ, "MM_CONFIG": str(EXAMPLE)}
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, env=environment)
