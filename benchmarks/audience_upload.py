"""A million people to a loopback stub: our delivery against a plain script without any ledger."""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from benchmarks.figure import Figure, peak_megabytes

PEOPLE = 1_000_000
RUNS = 3
DAY = date(2026, 11, 20)


def run() -> list[Figure]:
    """Seconds and peak memory of both, in fresh processes, in turns."""
    from mm_pipelines.local.postgres import EmbeddedPostgres

    with tempfile.TemporaryDirectory() as folder, upload_stub() as url:
        database = EmbeddedPostgres(Path(folder) / "postgres")
        database_url = database.start()
        try:
            payload = _payload(Path(folder))
            plain, ours = [], []
            for number in range(RUNS):
                plain.append(_measured("plain", url, str(payload)))
                ours.append(_measured("ours", url, str(payload), database_url, str(number)))
        finally:
            database.stop()
    rates = [PEOPLE / statistics.median(seconds for seconds, _ in some) for some in (plain, ours)]
    return [
        Figure(
            "upload of 1 M people",
            rates[1],
            "people/s",
            against=rates[0],
            peer="plain script",
            target="at least 1 / 1.5 of it",
        ),
        Figure(
            "peak memory of it",
            max(peak for _, peak in ours),
            "MB",
            against=max(peak for _, peak in plain),
            peer="plain script",
            target="under 700 MB",
        ),
    ]


def _payload(folder: Path) -> Path:
    import polars as pl
    import polars_hash as plh

    def hashes(prefix: str) -> pl.Expr:
        made = pl.format(prefix + "{}", pl.int_range(PEOPLE))
        return plh.concat_str(made).chash.sha2_256()

    path = folder / "payload.parquet"
    pl.select(
        EMAIL=hashes("email"),
        PHONE=hashes("phone"),
        FN=hashes("fn"),
        LN=hashes("ln"),
        row_number=pl.int_range(1, PEOPLE + 1),
        # As `hashed_payload` publishes its files.
    ).write_parquet(
        path, compression="zstd", compression_level=1, statistics=False, row_group_size=100_000
    )
    return path


@contextmanager
def upload_stub() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.upload_stub", str(port)])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _measured(*arguments: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.audience_upload", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = json.loads(output.splitlines()[-1])
    return measured["seconds"], measured["peak_mb"]


def _plain(url: str, payload: str) -> None:
    """What one would write in half an hour: read, build, post; nothing kept if it dies."""
    import httpx
    import polars as pl

    keys = ["EMAIL", "PHONE", "FN", "LN"]
    row = '["{}","{}","{}","{}"]'
    with httpx.Client(base_url=url) as client:
        chunks = pl.scan_parquet(payload).select(keys).collect_batches(chunk_size=10_000)
        for seq, chunk in enumerate(chunks, start=1):
            data = chunk.select(pl.format(row, *keys).str.join(",")).item()
            body = (
                f'{{"payload":{{"schema":{json.dumps(keys)},"data":[{data}]}},'
                f'"session":{{"session_id":1,"batch_seq":{seq},"last_batch_flag":false}}}}'
            )
            client.post("/v26.0/1/users", content=body.encode()).raise_for_status()


def _ours(url: str, payload: str, database_url: str, number: str) -> None:
    from mm_pipelines.delivery import custom_audience
    from mm_pipelines.delivery.context import DeliveryContext
    from mm_pipelines.delivery.custom_audience import AudienceSpec, CustomAudience
    from mm_pipelines.delivery.upload import upload
    from mm_pipelines.delivery.upload_plan import UploadPlan
    from mm_pipelines.graph_api.client import GraphApiClient
    from mm_pipelines.payload import registry
    from mm_pipelines.payload.registry import HashedPayload
    from mm_pipelines.shared_throttle import SharedThrottle
    from mm_pipelines.storage import Storage
    from mm_pipelines.warehouse.database import Database
    from mm_pipelines.warehouse.migrate import upgrade

    database = Database(database_url)
    upgrade(database)
    audience = f"audience_{number}"
    spec = AudienceSpec(audience, "1", "1", audience, "")
    path = Path(payload)
    with database.transaction() as connection:
        custom_audience.record(connection, CustomAudience(audience, number, "1", "1", audience))
        registry.record(connection, HashedPayload(audience, DAY, "0", path.name, PEOPLE))
    throttle = SharedThrottle(database, "ad_account:1", "token")
    storage = Storage(str(path.parent))
    begun = time.perf_counter()
    with GraphApiClient("token", base_url=url, throttle=throttle) as client:
        context = DeliveryContext(database, storage, client, print)
        summary = upload(context, UploadPlan(spec, DAY))
    assert summary.rows == PEOPLE
    _report(begun)


def _report(begun: float) -> None:
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak_mb": peak_megabytes()}))


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        import httpx  # noqa: F401 - imported before the clock starts, as ours is
        import polars as pl  # noqa: F401

        started = time.perf_counter()
        _plain(*sys.argv[2:])
        _report(started)
    else:
        _ours(*sys.argv[2:])
