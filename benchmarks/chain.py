"""The whole chain against a plain script: a CSV to acknowledged batches, then tokens to a table.

Ours are two in-process runs of Dagster, the job ``daily_upload`` and a materialization of
``subscription_tokens``, without Dagster's start-up. The script hashes, posts, pulls and merges, and
keeps neither a ledger nor any check. Both use the same stub and the same PostgreSQL.
``python -m benchmarks.chain`` also prints the steps of our runs; ``MM_BENCH_PEOPLE`` makes the list
shorter and the listing with it.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figure import Figure

if TYPE_CHECKING:
    import dagster as dg
    import httpx

PEOPLE = int(os.environ.get("MM_BENCH_PEOPLE", "1_000_000"))
TOKENS = PEOPLE // 2
RUNS = 3
DAY = "2026-11-20"
PAGE_ID = "134141414124123"

_CONFIG = f"""
start_date: {DAY}
pages:
  bench: {{page_id: "{PAGE_ID}", access_token_env: BENCH_PAGE_TOKEN}}
audiences:
  bench:
    page: bench
    ad_account_id: "12348141984909088"
    name: Benchmark
    description: Invented people
    default_country: US
    source: {{path: "{{audience}}/{{day}}.csv"}}
"""

Seconds = Mapping[str, float]


def run() -> list[Figure]:
    """Medians of both, in fresh processes, in turns."""
    plain, ours = measure()
    return [
        Figure(
            f"{name}: {PEOPLE:,} people and {TOKENS:,} tokens",
            _median(ours, steps),
            "s",
            against=_median(plain, steps),
            peer="plain script",
            target=target,
        )
        for name, steps, target in (
            ("the whole chain", ("upload", "tokens"), "at most 1.5 times"),
            ("list to acknowledged batches", ("upload",), ""),
            ("tokens to the table", ("tokens",), ""),
        )
    ]


def measure() -> tuple[list[Seconds], list[Seconds]]:
    """The seconds of each step of the script and of ours, once for each run."""
    from benchmarks.hashed_payload import make_list
    from mm_pipelines.local.postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="mm-bench-") as folder, _stub() as url:
        home = Path(folder)
        customers = home / "bench" / f"{DAY}.csv"
        customers.parent.mkdir()
        make_list(customers, PEOPLE)
        (home / "mm.yaml").write_text(_CONFIG)
        server = EmbeddedPostgres(home / "postgres")
        try:
            variables = _variables(home, server.start(), url)
            turns = [
                (_measured("plain", variables), _measured("ours", variables)) for _ in range(RUNS)
            ]
        finally:
            server.remove()
    return [plain for plain, _ in turns], [ours for _, ours in turns]


def _median(runs: list[Seconds], steps: tuple[str, ...]) -> float:
    return statistics.median(sum(seconds[step] for step in steps) for seconds in runs)


def _variables(home: Path, database_url: str, graph_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "MM_CONFIG": str(home / "mm.yaml"),
        "MM_HOME": str(home),
        "MM_DATABASE_URL": database_url,
        "MM_STORAGE_URL": str(home / "storage"),
        "MM_SUPPRESSION_KEY": "benchmark",
        "MM_GRAPH_API_URL": graph_url,
        "MM_SYSTEM_USER_TOKEN": "system-user-token",
        "BENCH_PAGE_TOKEN": "page-token",
    }


def _measured(which: str, variables: Mapping[str, str]) -> Seconds:
    command = [sys.executable, "-m", "benchmarks.chain", which]
    done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
    seconds: Seconds = json.loads(done.stdout.splitlines()[-1])
    return seconds


@contextmanager
def _stub() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.chain_stub", str(TOKENS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _plain() -> Seconds:
    """What one would write in an afternoon: nothing is kept if it dies."""
    import httpx
    from sqlalchemy import text

    from benchmarks.tokens import PLAIN_TABLE, plain_pull
    from mm_pipelines.warehouse.database import Database

    database = Database(os.environ["MM_DATABASE_URL"])
    with database.transaction() as connection:
        connection.execute(text("drop table if exists plain_token"))
        connection.execute(text(PLAIN_TABLE))
    url = os.environ["MM_GRAPH_API_URL"]
    with httpx.Client(base_url=url) as client:
        upload = _timed(lambda: _post_list(client))
        tokens = _timed(lambda: plain_pull(database, url))
    return {"upload": upload, "tokens": tokens}


def _post_list(client: "httpx.Client") -> None:
    import polars as pl
    from polars_hash import CryptographicHashingNameSpace

    columns = {"Email": "EMAIL", "Phone": "PHONE", "First Name": "FN", "Last Name": "LN"}
    keys = list(columns.values())
    people = (
        pl.scan_csv(Path(os.environ["MM_HOME"], "bench", f"{DAY}.csv"), infer_schema=False)
        .rename(columns)
        .select(
            pl.col("EMAIL").str.to_lowercase(),
            pl.col("PHONE").str.replace_all(r"\D", ""),
            pl.col("FN", "LN").str.to_lowercase().str.replace_all(r"[^\p{L}]", ""),
        )
        .select(CryptographicHashingNameSpace(pl.col(key)).sha2_256().alias(key) for key in keys)
        .unique(["EMAIL", "PHONE"])
    )
    row = '["{}","{}","{}","{}"]'
    for seq, chunk in enumerate(people.collect_batches(chunk_size=10_000), start=1):
        data = chunk.select(pl.format(row, *keys).str.join(",")).item()
        body = (
            f'{{"payload":{{"schema":{json.dumps(keys)},"data":[{data}]}},'
            f'"session":{{"session_id":1,"batch_seq":{seq},"last_batch_flag":false}}}}'
        )
        client.post("/v26.0/1/users", content=body.encode()).raise_for_status()


def _ours() -> Seconds:
    import dagster as dg
    from sqlalchemy import text

    from mm_pipelines.warehouse.database import Database
    from mm_pipelines.warehouse.migrate import upgrade

    database = Database(os.environ["MM_DATABASE_URL"])
    with database.transaction() as connection:
        connection.execute(text("drop schema if exists mm cascade"))
    shutil.rmtree(os.environ["MM_STORAGE_URL"], ignore_errors=True)
    upgrade(database)

    from mm_pipelines.definitions import defs

    job = defs.resolve_job_def("daily_upload")
    tokens = defs.resolve_implicit_global_asset_job_def()
    partition = dg.MultiPartitionKey({"audience": "bench", "day": DAY})
    seconds: dict[str, float] = {}
    with dg.DagsterInstance.ephemeral() as instance:
        begun = time.perf_counter()
        result = job.execute_in_process(partition_key=partition, instance=instance)
        seconds["upload"] = time.perf_counter() - begun
        seconds |= _step_seconds(result)
        begun = time.perf_counter()
        result = tokens.execute_in_process(
            partition_key="bench",
            asset_selection=[dg.AssetKey("subscription_tokens")],
            instance=instance,
        )
        seconds["tokens"] = time.perf_counter() - begun
        seconds |= _step_seconds(result)
    return seconds


def _step_seconds(result: "dg.ExecuteInProcessResult") -> Seconds:
    return {
        event.step_key or "": event.step_success_data.duration_ms / 1000
        for event in result.all_events
        if event.is_step_success
    }


def main(arguments: list[str]) -> None:
    if arguments:
        print(json.dumps(_plain() if arguments == ["plain"] else _ours()))
        return
    plain, ours = measure()
    for name in ours[0]:
        against = f"  plain {_median(plain, (name,)):.2f}" if name in plain[0] else ""
        print(f"{name:20} {_median(ours, (name,)):.2f} s{against}")


if __name__ == "__main__":
    main(sys.argv[1:])
