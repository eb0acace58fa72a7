"""An upload that is killed at any instant and run again delivers everyone once."""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from sqlalchemy import text

from mm_pipelines.delivery import ledger
from mm_pipelines.payload import quarantine
from tests.delivery import uploading
from tests.delivery.sandbox_delivery import DAY, SandboxDelivery, hashed, keys, people

BATCH_SIZE = 1000
TRIALS = int(os.environ.get("MM_CRASH_TRIALS", "100"))
THROTTLE = {
    "method": "POST",
    "path": "*/users",
    "error": {"code": 80003, "message": "too many calls", "status": 400},
}


@dataclass(frozen=True)
class Kills:
    """Uploads in processes of their own, killed after a while."""

    delivery: SandboxDelivery
    storage_url: str
    processes: ForkServerContext

    def upload(self, audience: str, side_by_side: int, kill_after: float | None) -> bool:
        """Upload; True if it ended by itself before it would be killed."""
        process = self.processes.Process(
            target=uploading.run,
            args=(
                self.delivery.database.url,
                self.storage_url,
                self.delivery.sandbox.url,
                audience,
                BATCH_SIZE,
                side_by_side,
            ),
        )
        process.start()
        process.join(kill_after)
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return False
        assert process.exitcode == 0
        return True

    def throttle_ends(self) -> None:
        """Meta accepts calls again, and the time to wait for that is over."""
        self.delivery.sandbox.clear_faults()
        with self.delivery.database.transaction() as connection:
            connection.execute(text("delete from mm.throttle"))

    def acknowledged(self, audience: str) -> set[tuple[str, int]]:
        """The batches that the ledger calls acknowledged."""
        with self.delivery.database.transaction() as connection:
            rows = connection.execute(
                text(
                    "select session_id, batch_seq from mm.upload_batch "
                    "where audience = :audience and status = 'acknowledged'"
                ),
                {"audience": audience},
            )
            return {(str(row.session_id), row.batch_seq) for row in rows}

    def times_received(self) -> dict[tuple[str, int], int]:
        """How often each batch came in."""
        return {
            (batch["session_id"], batch["batch_seq"]): batch["times_received"]
            for batch in self.delivery.sandbox.batches()
        }


@pytest.fixture
def kills(delivery: SandboxDelivery, tmp_path: Path) -> Kills:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.delivery.uploading"])
    return Kills(delivery, str(tmp_path / "storage"), processes)


def trial(
    kills: Kills, audience: str, count: int, rng: random.Random, *, with_refusals: bool = False
) -> None:
    """Kill an upload once or twice, let it finish, and compare what arrived with the list.

    Args:
        kills: The uploads.
        audience: A new audience.
        count: People in its list.
        rng: Chooses the instants.
        with_refusals: One row is refused for good, and one call in the middle is throttled.
    """
    side_by_side = rng.choice([1, 1, 3])
    crowd = people(count)
    refused = rng.randrange(count) if with_refusals else None
    kills.delivery.publish(crowd, audience=audience)
    if refused is not None:
        kills.delivery.sandbox.post("refusals", hashes=[hashed(crowd[refused][0])])
        kills.delivery.sandbox.post("faults", **THROTTLE, nth=rng.randint(2, 12))
    for _ in range(rng.choice([1, 1, 2])):
        finished = kills.upload(audience, side_by_side, kill_after=rng.uniform(0.02, 0.8))
        before = kills.acknowledged(audience)
        received = {batch: kills.times_received()[batch] for batch in before}
        if finished:
            break
    kills.throttle_ends()
    kills.upload(audience, side_by_side, kill_after=None)

    after = kills.times_received()
    assert {batch: after[batch] for batch in before} == received, "acknowledged, and sent again"
    delivered = crowd if refused is None else [*crowd[:refused], *crowd[refused + 1 :]]
    with kills.delivery.database.transaction() as connection:
        assert ledger.people_acknowledged(connection, audience) == len(delivered)
        if refused is None:
            assert ledger.delivered(connection, audience, DAY).rows == count
        rejected = quarantine.find(connection, audience, DAY, limit=10)
    if refused is not None:
        assert [(row.row_number, row.reasons) for row in rejected] == [
            (refused + 1, ["refused_by_meta"])
        ]
    found = [a for a in kills.delivery.sandbox.get("audiences") if a["name"] == audience]
    assert len(found) == 1, "created twice"
    members = kills.delivery.sandbox.get(f"audiences/{found[0]['audience_id']}/members")["keys"]
    assert set(members) == keys(delivered)


@pytest.mark.parametrize("with_refusals", [False, True])
def test_a_killed_upload_run_again_delivers_everyone_once(
    kills: Kills, with_refusals: bool
) -> None:
    rng = random.Random(20261121)
    for number in range(3):
        trial(kills, f"audience_{number}", 12_000, rng, with_refusals=with_refusals)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("with_refusals", [False, True])
def test_a_hundred_uploads_of_sixty_thousand_killed_at_random_deliver_everyone_once(
    kills: Kills, with_refusals: bool
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(TRIALS):
        trial(kills, f"audience_{number}", 60_000, rng, with_refusals=with_refusals)
