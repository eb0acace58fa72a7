"""`mm demo`: the whole flow on the sample lists, shown stage by stage."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mm_pipelines.cli.output import fail
from mm_pipelines.local.ports import Ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from mm_pipelines.local.demo import Flow, Progress

_SECONDS = 600.0
_MOST_REASONS = 4


def demo(
    timeout: Annotated[float, typer.Option(help="Seconds that the flow may take.")] = _SECONDS,
) -> None:
    """Run the whole flow on the sample lists, against a sandbox of the Graph API.

    Through Dagster's own daemon and sensors, as a backfill. Nothing is left running; the state
    stays in MM_HOME, so that `mm up --sandbox` shows what happened. Run again, it changes nothing.
    """
    from mm_pipelines.local.dagster_ui import DagsterUi
    from mm_pipelines.local.demo import DemoError, Flow, partitions_with_lists
    from mm_pipelines.local.environment import Environment
    from mm_pipelines.local.processes import Stopped
    from mm_pipelines.local.stack import LOCATION, Stack
    from mm_pipelines.warehouse.database import Database

    began = time.monotonic()
    console = Console()
    ports = Ports().free_or_others()
    environment = Environment.for_sandbox(ports.sandbox_url)
    config = environment.config()
    partitions = partitions_with_lists(config)
    try:
        with Stack(environment, ports, report=lambda part: console.print(f"· {part}")) as stack:
            stack.start_servers()
            database = Database(environment.database_url())
            ui = DagsterUi(ports.ui_url, LOCATION)
            flow = Flow(config, partitions, database, ui)
            console.print(f"· backfill of {len(partitions)} partitions: {flow.submit()}")
            stack.start_daemon()
            progress = _watch(flow, stack.check, timeout, console)
            ui.close()
            database.dispose()
    except DemoError as error:
        fail(f"{error}\nIts logs are in {environment.home / 'logs'}; the runs, in `make up`.")
    except Stopped as stopped:
        fail(f"stopped by {stopped}")
    seconds = time.monotonic() - began
    console.print(f"\nDone in {seconds:.0f} s. Nothing is left running; the state is kept.")
    console.print(f"To look around: make up, then {Ports().ui_url} in a browser; `mm status`.")
    typer.echo(f"RESULT {json.dumps(asdict(progress.counts))}")


def _watch(flow: Flow, check: Callable[[], None], seconds: float, console: Console) -> Progress:
    """Show the flow until it has finished, and return how it ended."""
    shown = None
    with Live(console=console, refresh_per_second=4) as live:
        for progress in flow.watch(seconds):
            check()
            if console.is_terminal:
                live.update(_stages(progress))
            elif shown is None or progress.counts != shown.counts:
                # A log file has no cursor to move: one line each time that something has happened.
                console.print(_line(progress))
            shown = progress
    if shown is None:
        raise AssertionError("watching ends with a last look")
    if not console.is_terminal:
        console.print(_stages(shown))
    return shown


def _line(progress: Progress) -> str:
    counts = progress.counts
    return (
        f"  {counts.rows_read:,} read, {counts.people_hashed:,} hashed, "
        f"{counts.rows_uploaded:,} uploaded, {counts.rows_processed:,} processed, "
        f"{counts.tokens_pulled:,} tokens"
    )


def _stages(progress: Progress) -> Table:
    counts = progress.counts
    reasons = sorted(counts.rejected.items(), key=lambda item: -item[1])[:_MOST_REASONS]
    matched = f"{counts.matched_lower:,} to {counts.matched_upper:,}"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = [
        ("rows read", f"{counts.rows_read:,}", f"{counts.partitions} lists"),
        (
            "rejected",
            f"{counts.rows_rejected:,}",
            ", ".join(f"{reason} {number:,}" for reason, number in reasons),
        ),
        ("merged", f"{counts.rows_merged:,}", "the same person twice in a list"),
        ("people hashed", f"{counts.people_hashed:,}", ""),
        ("uploaded", f"{counts.rows_uploaded:,}", f"to {counts.audiences} Custom Audiences"),
        ("processed", f"{counts.rows_processed:,}", "reported by webhooks"),
        ("matched", matched, "as Meta's bounds"),
        ("tokens pulled", f"{counts.tokens_pulled:,}", ""),
        ("duplicates removed", f"{counts.duplicates_removed:,}", "of the same recipient"),
        ("tokens sendable", f"{counts.tokens_sendable:,}", ""),
    ]
    for row in rows:
        table.add_row(*row)
    state = "finished" if progress.finished else f"{progress.runs} runs wait or work"
    table.add_row("Dagster", "", state)
    return table
