"""Deliveries whose payloads, deltas and members are in a storage that is not the local disk."""

from datetime import timedelta
from pathlib import Path

import pytest

from mm_pipelines.lists import FileSource
from mm_pipelines.payload import build_hashed_payload
from mm_pipelines.storage import Storage
from tests.delivery.sandbox_delivery import DAY, SandboxDelivery, keys, people


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage in memory, or on an S3 server."""
    if request.param == "memory":
        return Storage(f"memory://{tmp_path.name}/storage")
    return Storage(request.getfixturevalue("s3_url"))


def test_an_audience_is_mirrored_from_any_storage(
    delivery: SandboxDelivery, remote: Storage
) -> None:
    delivery.storage = remote
    for day in range(3):
        delivery.publish(people(120, start=day * 10), day=DAY + timedelta(days=day))
        delivery.upload(mode="mirror", day=DAY + timedelta(days=day))
        assert delivery.sandbox.members() == keys(people(120, start=day * 10))


def test_a_list_on_s3_becomes_a_payload_on_s3(s3_url: str, tmp_path: Path) -> None:
    storage = Storage(s3_url)
    (tmp_path / "list.csv").write_text("email\na@b.co\nA@B.co\nc@d.co\n")
    content = (tmp_path / "list.csv").read_bytes()
    storage.replace("list.csv", lambda path: path.write_bytes(content))
    built = build_hashed_payload(FileSource(f"{s3_url}/list.csv"), storage, folder="hashed")
    assert (built.read, built.accepted, built.merged) == (3, 2, 1)
    assert storage.scan(built.path).collect().height == 2
    assert built.url == f"{s3_url}/{built.path}"
