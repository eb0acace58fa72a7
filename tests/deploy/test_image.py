"""The image of deploy/Containerfile: `make image`, then MM_TEST_IMAGE=NAME `make test-deploy`."""

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mm_pipelines.warehouse.database import Database
from mm_pipelines.warehouse.migrate import current, head
from tests.servers import free_port
from tests.tcp_server import server_on_tcp

IMAGE = os.environ.get("MM_TEST_IMAGE", "")
ENGINE = shutil.which("podman") or shutil.which("docker") or ""
CONFIG = Path(__file__).parents[2] / "deploy" / "kubernetes" / "mm.yaml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IMAGE, reason="MM_TEST_IMAGE names no image: run `make image`"),
    pytest.mark.skipif(not ENGINE, reason="needs podman or docker"),
]

# As a cluster runs it: read-only, unprivileged, and nothing writable but /tmp.
RESTRICTED = ["--read-only", "--cap-drop=all", "--tmpfs=/tmp:rw,size=64m", "--network=host"]
# Such as `--runtime runc`, and `--ulimit nofile=1024:1024` for `run`.
MACHINE = os.environ.get("MM_TEST_ENGINE_OPTIONS", "").split()
RUN_OPTIONS = os.environ.get("MM_TEST_RUN_OPTIONS", "").split()


def command(
    arguments: list[str], variables: dict[str, str], *, name: str = "", detached: bool = False
) -> list[str]:
    settings = [f"--env={key}={value}" for key, value in variables.items()]
    mount = f"--volume={CONFIG}:/etc/mm/mm.yaml:ro"
    ending = ["--detach", f"--name={name}"] if detached else ["--rm"]
    return [
        ENGINE,
        *MACHINE,
        "run",
        *RUN_OPTIONS,
        *RESTRICTED,
        *ending,
        mount,
        *settings,
        IMAGE,
        *arguments,
    ]


def run(arguments: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(arguments, variables), capture_output=True, text=True, check=False
    )


@contextmanager
def running(arguments: list[str], variables: dict[str, str]) -> Iterator[str]:
    """A container in the background; yields its name."""
    name = f"mm-test-{uuid.uuid4().hex[:8]}"
    detached = command(arguments, variables, name=name, detached=True)
    subprocess.run(detached, check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run([ENGINE, *MACHINE, "rm", "--force", name], check=True, capture_output=True)


def seconds_until(ready: Callable[[], bool]) -> float:
    begun = time.monotonic()
    while not ready():
        assert time.monotonic() < begun + 120
        time.sleep(0.1)
    return time.monotonic() - begun


@pytest.fixture
def variables() -> Iterator[dict[str, str]]:
    with server_on_tcp("127.0.0.1") as url:
        yield {
            "MM_DATABASE_URL": url,
            "MM_STORAGE_URL": "/tmp/storage",
            "MM_SUPPRESSION_KEY": "a key",
            "MM_APP_SECRET": "secret",
            "MM_WEBHOOK_VERIFY_TOKEN": "token",
        }


def test_one_image_migrates_receives_serves_the_location_and_runs(
    variables: dict[str, str],
) -> None:
    migrated = run(["mm", "db", "upgrade"], variables)
    assert migrated.returncode == 0, migrated.stderr
    database = Database(variables["MM_DATABASE_URL"])
    assert current(database) == head()
    database.dispose()

    executed = run(
        ["dagster", "job", "execute", "-m", "mm_pipelines.definitions", "-j", "retention"],
        variables,
    )
    assert executed.returncode == 0, executed.stderr[-2000:]

    port = free_port()
    receiver = ["mm", "webhooks", "--host", "127.0.0.1", "--port", str(port)]
    with running(receiver, variables):

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        print(f"receiver ready after {seconds_until(answers):.1f} s")

    server = ["dagster", "api", "grpc", "--host", "127.0.0.1", "--port", str(port)]
    with running([*server, "--module-name", "mm_pipelines.definitions"], variables) as name:
        check = ["dagster", "api", "grpc-health-check", "--port", str(port)]

        def serves() -> bool:
            looked = [ENGINE, *MACHINE, "exec", name, *check]
            return subprocess.run(looked, check=False, capture_output=True).returncode == 0

        print(f"code location ready after {seconds_until(serves):.1f} s")


def test_the_image_has_no_compiler_no_pip_and_no_secret() -> None:
    for program in ("gcc", "cc", "pip"):
        found = run(["sh", "-c", f"command -v {program}"], {})
        assert found.returncode != 0, program
    assert run(["id", "-u"], {}).stdout.strip() == "10001"
    history = [ENGINE, *MACHINE, "history", "--no-trunc", IMAGE]
    layers = subprocess.run(history, check=True, capture_output=True, text=True).stdout
    assert "pip.conf" not in layers.replace("target=/etc/pip.conf", "")
    assert run(["cat", "/etc/pip.conf"], {}).stdout == ""
