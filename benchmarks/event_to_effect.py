"""From a webhook's row to the match status that counts it, against the least that Dagster takes.

One stack as `mm up --sandbox` starts it, with a second code location beside ours: a sensor, an
asset, and nothing else (benchmarks.floor_location). One daemon serves both, so both have the same
ticks, queue, launcher and executor, and they are measured in turns on the same machine at the same
time. What is left between the two is ours.
"""

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import yaml
from sqlalchemy import text

from benchmarks import floor_location
from benchmarks.figure import Figure
from mm_pipelines.local.dagster_ui import DagsterUi
from mm_pipelines.local.demo import JOB
from mm_pipelines.local.environment import Environment
from mm_pipelines.local.ports import Ports
from mm_pipelines.local.processes import ProcessGroup
from mm_pipelines.local.stack import CODE_SERVER_HEARTBEAT_SECONDS, LOCATION, Stack
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.signature import HEADER, sign
from mm_pipelines.webhooks.webhook_event import UPLOAD_STATUS

EVENTS = 5
AUDIENCE = "bench"
BATCH_SIZE = 20
TICK_SECONDS = 5.0
"""What passes between two ticks of either sensor."""

_WAIT_SECONDS = 180.0
_LOOK_SECONDS = 0.2

_CONFIG = """
start_date: {day}
settings: {{batch_size: {batch_size}, token_pull_minutes: 600}}
pages:
  bench: {{page_id: "134141414124123", access_token_env: BENCH_PAGE_TOKEN}}
audiences:
  {audience}:
    page: bench
    ad_account_id: "12348141984909088"
    name: Benchmark
    description: Made-up people
    source: {{path: "{{audience}}/{{day}}.csv"}}
"""

_WAITING_BATCHES = """
select count(*) from mm.upload_batch
where status = 'acknowledged' and reported_event_id is null
"""

_PULLS = "select count(*) from mm.token_pull where finished_at is not null"

_BUSY = """
select count(*) from dagster.runs where status not in ('SUCCESS', 'FAILURE', 'CANCELED')
"""

_OURS = """
select extract(epoch from status.as_of - event.received_at)
from mm.webhook_event as event
join mm.upload_batch as batch on batch.reported_event_id = event.id
join mm.match_status as status using (audience, day)
where event.id = (select max(id) from mm.webhook_event)
  and event.processed_at <= status.as_of
"""

_FLOOR = """
select extract(epoch from processed_at - received_at) from floor_event
where id = (select max(id) from floor_event)
"""


def run() -> list[Figure]:
    """Medians of both over events that come at moments spread evenly over a tick."""
    with tempfile.TemporaryDirectory(prefix="mm-bench-") as folder, _running(Path(folder)) as both:
        ours: list[float] = []
        floor: list[float] = []
        for number in range(EVENTS):
            for durations, measure in ((floor, both.floor), (ours, both.ours)):
                both.wait_until_idle()
                time.sleep((number + 0.5) * TICK_SECONDS / EVENTS)
                durations.append(measure())
    return [
        Figure(
            "event to effect through the daemon",
            statistics.median(ours),
            "s",
            against=statistics.median(floor),
            peer="a bare sensor and asset",
            target="at most the floor + 3 s",
        ),
        Figure(
            "the slowest of them",
            max(ours),
            "s",
            against=max(floor),
            peer="a bare sensor and asset",
        ),
    ]


@dataclass(frozen=True)
class _Both:
    """The running stack, with a partition whose batches are not reported yet."""

    database: Database
    receiver_url: str
    app_secret: str

    def ours(self) -> float:
        """Seconds from a webhook's row to the status that it made."""
        self._post(json.dumps(self._next_event()).encode())
        return self._effect(_OURS)

    def floor(self) -> float:
        """Seconds from a bare row to its stamp."""
        with self.database.transaction() as connection:
            connection.execute(text("insert into floor_event default values"))
        return self._effect(_FLOOR)

    def wait_until_idle(self) -> None:
        """Until Dagster has no run to work on: an event must not queue behind another's."""
        _wait_for("Dagster to be idle", lambda: self._number(_BUSY) == 0)

    def warm_up(self) -> None:
        """One of each, once every batch waits for its report.

        The first report also asks for the Page's tokens, and no other does so soon.
        """
        _wait_for("the upload", lambda: self._number(_WAITING_BATCHES) == 1 + EVENTS)
        self.wait_until_idle()
        self.floor()
        self.ours()
        _wait_for("the tokens", lambda: self._number(_PULLS) == 1)

    def _next_event(self) -> dict[str, object]:
        with self.database.transaction() as connection:
            audience = connection.execute(text("select * from mm.custom_audience")).one()
        value = {
            "page_id": int(audience.page_id),
            "custom_audience_id": int(audience.custom_audience_id),
            "ad_account_id": int(audience.ad_account_id),
            "timestamp": int(time.time()),
            "num_rows": BATCH_SIZE,
            "approximate_count_lower_bound": 100,
            "approximate_count_upper_bound": 120,
            "batch_uploading_status": "SUCCESS",
        }
        change = {"field": UPLOAD_STATUS, "value": value}
        entry = {"id": audience.page_id, "time": time.time_ns() // 1_000_000, "changes": [change]}
        return {"object": "page", "entry": [entry]}

    def _post(self, content: bytes) -> None:
        headers = {HEADER: sign(content, self.app_secret), "Content-Type": "application/json"}
        url = f"{self.receiver_url}/webhooks"
        httpx.post(url, content=content, headers=headers).raise_for_status()

    def _effect(self, statement: str) -> float:
        seconds = 0.0

        def is_there() -> bool:
            nonlocal seconds
            seconds = self._number(statement) or 0.0
            return seconds > 0

        _wait_for("the effect of an event", is_there)
        return seconds

    def _number(self, statement: str) -> float | None:
        with self.database.transaction() as connection:
            found = connection.scalar(text(statement))
        return None if found is None else float(found)


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[_Both]:
    day = datetime.now(UTC).date()
    ports = Ports().free_or_others()
    environment = _environment(folder, day, ports)
    try:
        with Stack(environment, ports) as stack, ProcessGroup(folder / "floor") as floor:
            stack.start_servers()
            database = Database(environment.database_url())
            _start_floor(floor, environment, database)
            # Reports are to come one by one, when the clock runs.
            httpx.post(f"{ports.sandbox_url}/_sandbox/webhooks/pause").raise_for_status()
            ui = DagsterUi(ports.ui_url, LOCATION)
            ui.launch_backfill(JOB, [f"{AUDIENCE}|{day}"])
            ui.close()
            stack.start_daemon()
            both = _Both(database, ports.receiver_url, environment.sandbox_secrets["MM_APP_SECRET"])
            both.warm_up()
            yield both
            database.dispose()
    finally:
        if (postgres := environment.postgres()) is not None:
            postgres.remove()


def _environment(folder: Path, day: date, ports: Ports) -> Environment:
    """A configuration with one audience, and its list: as many batches as there will be events."""
    config = folder / "mm.yaml"
    config.write_text(_CONFIG.format(day=day, audience=AUDIENCE, batch_size=BATCH_SIZE))
    people = folder / AUDIENCE / f"{day}.csv"
    people.parent.mkdir()
    emails = (f"person{number}@example.com" for number in range((1 + EVENTS) * BATCH_SIZE))
    people.write_text("\n".join(["email", *emails]) + "\n")
    variables = {"MM_HOME": str(folder / "home"), "MM_CONFIG": str(config)}
    return Environment.for_sandbox(ports.sandbox_url, variables)


def _start_floor(group: ProcessGroup, environment: Environment, database: Database) -> None:
    """Serve the bare code location as ours is served, and let the daemon find it."""
    with database.transaction() as connection:
        connection.execute(text(floor_location.CREATE))
    socket = environment.dagster_home / "floor.sock"
    group.start(
        "code-server",
        [
            *(sys.executable, "-m", "dagster", "code-server", "start", "--socket", socket),
            *("--module-name", floor_location.__name__, "--location-name", "floor"),
            *("--heartbeat-ttl", CODE_SERVER_HEARTBEAT_SECONDS),
        ],
        {**os.environ, **environment.exports()},
        ready=socket.exists,
    )
    workspace = environment.dagster_home / "workspace.yaml"
    content = yaml.safe_load(workspace.read_text())
    server = {"socket": str(socket), "location_name": "floor"}
    content["load_from"].append({"grpc_server": server})
    workspace.write_text(yaml.safe_dump(content))


def _wait_for(what: str, is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _WAIT_SECONDS
    while not is_so():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not come within {_WAIT_SECONDS:.0f} s")
        time.sleep(_LOOK_SECONDS)
