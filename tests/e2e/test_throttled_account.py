"""Opt-outs do not wait for uploads that Meta throttles."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.local.demo import JOB
from mm_pipelines.local.environment import Environment
from mm_pipelines.warehouse.database import Database
from tests.e2e.installation import Installation
from tests.e2e.running_stack import RunningStack
from tests.e2e.stock_stack import wait_until
from tests.webhooks.meta import PAGE_ID, body, item, messaging, signed

AD_ACCOUNT = "12348141984909088"
AUDIENCES = [f"audience_{number}" for number in range(4)]
USAGE = {
    "type": "custom_audience",
    "call_count": 100,
    "total_cputime": 1,
    "total_time": 1,
    "estimated_time_to_regain_access": 60,
}
THROTTLE = {
    "method": "POST",
    "path": "*/users",
    "times": None,
    "error": {"code": 80003, "message": "too many calls", "status": 400},
    "headers": {"X-Business-Use-Case-Usage": json.dumps({AD_ACCOUNT: [USAGE]})},
}


def write_lists(folder: Path) -> tuple[Path, list[str]]:
    """One Page with four audiences of one ad account; returns mm.yaml and the partitions."""
    today = datetime.now(UTC).date()
    folder.mkdir()
    audiences = {
        audience: {
            "page": "acme",
            "ad_account_id": AD_ACCOUNT,
            "name": audience,
            "description": "Made-up people",
            "source": {"path": "{audience}.csv"},
        }
        for audience in AUDIENCES
    }
    page = {"page_id": str(PAGE_ID), "access_token_env": "ACME_PAGE_TOKEN"}
    config = {"start_date": str(today), "pages": {"acme": page}, "audiences": audiences}
    for audience in AUDIENCES:
        people = "".join(f"person{number}@example.com\n" for number in range(1_500))
        (folder / f"{audience}.csv").write_text(f"email\n{people}")
    path = folder / "mm.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path, [f"{audience}|{today}" for audience in AUDIENCES]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stop_is_carried_out_in_30_seconds_while_an_account_waits_an_hour(
    installation: Installation, ports: list[str], tmp_path: Path
) -> None:
    config, partitions = write_lists(tmp_path / "lists")
    installation.variables["MM_CONFIG"] = str(config)
    up = RunningStack(installation, ports)
    environment = Environment.resolve(installation.variables)
    database = Database(environment.database_url())

    def count(statement: str) -> int:
        with database.transaction() as connection:
            return int(connection.scalar(text(statement)) or 0)

    sandbox = f"http://127.0.0.1:{up.ports['--sandbox-port']}/_sandbox"
    httpx.post(f"{sandbox}/faults", json=THROTTLE).raise_for_status()
    psid = httpx.post(f"{sandbox}/people/message", json={"page_id": str(PAGE_ID)}).json()["psid"]
    ui = up.ui
    ui.launch_backfill(JOB, partitions)
    wait_until(
        lambda: count("select count(*) from mm.throttle where refusals > 0") > 0,
        180,
        "Meta throttled the account",
    )

    stop = {"type": "notification_messages", "notification_messages_status": "STOP_NOTIFICATIONS"}
    now = time.time_ns() // 1_000_000
    content = body(messaging(item(psid, optin=stop, timestamp=now), time=now))
    secret = json.loads((installation.home / "sandbox.json").read_text())["secrets"][
        "MM_APP_SECRET"
    ]
    receiver = f"http://127.0.0.1:{up.ports['--receiver-port']}/webhooks"
    stopped_at = time.monotonic()
    httpx.post(receiver, headers=signed(content, secret), content=content).raise_for_status()
    assert count("select count(*) from mm.messenger_consent where stopped") == 1
    carried_out = "select count(*) from mm.unsubscribe_request where state = 'confirmed'"
    wait_until(lambda: count(carried_out) == 1, 240, "the person is unsubscribed at Meta")
    seconds = time.monotonic() - stopped_at
    print(f"STOP carried out after {seconds:.1f} s")

    # Every upload ends with a deferral; no run holds a slot.
    wait_until(
        lambda: count("select count(*) from mm.deferred_work") == len(AUDIENCES),
        180,
        "every upload is deferred",
    )
    assert count(
        "select count(*) from mm.deferred_work where due_at > now() + interval '50 minutes'"
    ) == len(AUDIENCES)
    wait_until(lambda: ui.unfinished_runs() == [], 120, "no run is unfinished")
    ui.close()

    # The hour passes.
    httpx.delete(f"{sandbox}/faults").raise_for_status()
    with database.transaction() as connection:
        connection.execute(text("delete from mm.throttle"))
        connection.execute(text("update mm.deferred_work set due_at = now()"))
    delivered = "select count(*) from mm.upload_delta where completed_at is not null"
    wait_until(lambda: count(delivered) == len(AUDIENCES), 240, "every upload is delivered")
    database.dispose()
    assert up.stop() == 0
    assert seconds < 30
