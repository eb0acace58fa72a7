"""Plays stories from seeds: `make simulate SEEDS=1000 START=0`.

The exit status is 1 if an invariant was violated. The seed and the shortest story that still
violates it are then printed.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from mm_pipelines.local.postgres import EmbeddedPostgres
from mm_pipelines.warehouse.database import Database
from tests.simulation import clock
from tests.simulation.invariants import ViolationError
from tests.simulation.known_faults import FAULTS
from tests.simulation.shrink import shrink
from tests.simulation.simulation import play
from tests.simulation.story import Story, make_story

_PROGRESS_EVERY = 10


def main() -> int:
    """Play the seeds; return the exit status."""
    arguments = _arguments()
    # The order of a set of texts would differ from process to process, and a seed would not replay.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0", "POLARS_MAX_THREADS": "1"},
        )
    # The server is removed however this process ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="mm-simulation-") as home:
        server = EmbeddedPostgres(Path(home) / "server", durable=False)
        database = clock.prepare(server.start())
        try:
            with FAULTS[arguments.fault](database) if arguments.fault else nullcontext():
                return _play_all(arguments, database)
        finally:
            database.dispose()
            server.remove()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="put a known fault back")
    parser.add_argument("--keep-going", action="store_true", help="go on after a violation")
    return parser.parse_args()


def _play_all(arguments: argparse.Namespace, database: Database) -> int:
    began_at = time.monotonic()
    happened: Counter[str] = Counter()
    runs = violations = played = 0
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        if time.monotonic() - began_at > arguments.seconds:
            break
        story = make_story(seed)
        try:
            outcome = play(story, database)
        except ViolationError as error:
            violations += 1
            _report(story, error, database, with_story=not arguments.keep_going)
            if not arguments.keep_going:
                return 1
        else:
            happened += outcome.happened
            runs += outcome.runs
        played += 1
        if played % _PROGRESS_EVERY == 0:
            _progress(played, runs, violations, time.monotonic() - began_at)
    _progress(played, runs, violations, time.monotonic() - began_at)
    for name, count in sorted(happened.items()):
        print(f"  {name:<24} {count:>7,}")
    return 1 if violations else 0


def _progress(played: int, runs: int, violations: int, seconds: float) -> None:
    print(
        f"{played} seeds, {runs:,} runs, {violations} violations, "
        f"{played / seconds * 60:.0f} seeds a minute",
        flush=True,
    )


def _report(story: Story, error: ViolationError, database: Database, *, with_story: bool) -> None:
    print(f"seed {story.seed}: {error}", flush=True)
    if not with_story:
        return

    def fails(shorter: Story) -> bool:
        try:
            play(shorter, database)
        except ViolationError:
            return True
        return False

    print("the shortest story that still fails:")
    print(shrink(story, fails), flush=True)


if __name__ == "__main__":
    sys.exit(main())
