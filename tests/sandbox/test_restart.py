"""kill -9 and start again: nothing is lost."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.sandbox import meta
from tests.sandbox.meta import Meta, Receiver, key, people

PROGRAM = """
import sys
from mm_pipelines.sandbox import (Settings, run)
run("127.0.0.1", int(sys.argv[1]), Settings.model_validate_json(sys.argv[2]))
"""


@contextmanager
def process(port: int, settings: str) -> Iterator[Meta]:
    """A sandbox as a process of its own, killed at the end of the block."""
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port), settings])
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(timeout=30) as http:
            while True:
                try:
                    http.get(f"{url}/_sandbox/health")
                    break
                except httpx.TransportError:
                    assert child.poll() is None, "the sandbox ended"
                    time.sleep(0.05)
            yield Meta(url, http)
    finally:
        child.kill()
        child.wait()


def test_a_killed_sandbox_finishes_its_matching_and_its_webhooks_after_a_restart(
    tmp_path: Path, receiver: Receiver, free_port: int
) -> None:
    settings = {
        "state_file": str(tmp_path / "sandbox" / "state.db"),
        "webhook_url": receiver.url,
        "app_secret": meta.APP_SECRET,
        "system_user_tokens": [meta.SYSTEM_TOKEN],
        "page_tokens": {meta.PAGE: meta.PAGE_TOKEN},
        "match_delay_seconds": 3600,
    }
    with process(free_port, json.dumps(settings)) as sandbox:
        audience = sandbox.create_audience()
        sandbox.control("POST", "webhooks/pause")
        sandbox.upload(audience, people(300), seq=1)
        sandbox.process_now()
        sandbox.upload(audience, people(300, "more"), seq=2)
    with process(free_port, json.dumps(settings)) as sandbox:
        idle = sandbox.control("GET", "idle")
        assert (idle["pending_matching"], idle["pending_webhooks"]) == (1, 1)
        assert sandbox.members(audience) == {key(row) for row in people(300) + people(300, "more")}
        assert sandbox.upload(audience, people(300), seq=1).json()["num_received"] == 300
        sandbox.control("POST", "webhooks/resume")
        assert sandbox.process_now()["idle"]
        assert len({body["entry"][0]["time"] for body in receiver.bodies()}) == 2
