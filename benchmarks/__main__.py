"""Run the benchmarks and show their figures: ``python -m benchmarks [NAME …]``."""

import importlib
import json
import pkgutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.figure import Figure

RESULTS = Path(__file__).parent / "results"


def main(chosen: list[str]) -> None:
    """Print the figures of the chosen benchmarks, or of all, and write them as JSON."""
    known = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    names = chosen or [name for name in known if name not in ("__main__", "figure")]
    table = Table("figure", "ours", "against", "ratio", "target")
    console = Console()
    records = []
    for name in names:
        console.print(f"[dim]{name} …[/dim]")
        module = importlib.import_module(f"benchmarks.{name}")
        if not hasattr(module, "run"):
            continue  # a stub server or the like, which a benchmark starts
        figures: list[Figure] = module.run()
        for figure in figures:
            table.add_row(*_cells(figure))
            records.append({"benchmark": name, **asdict(figure), "ratio": figure.ratio})
    console.print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {path}")


def _cells(figure: Figure) -> tuple[str, str, str, str, str]:
    against = "" if figure.against is None else f"{figure.against:,.4g} ({figure.peer})"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    return (figure.name, f"{figure.value:,.4g} {figure.unit}", against, ratio, figure.target)


if __name__ == "__main__":
    main(sys.argv[1:])
