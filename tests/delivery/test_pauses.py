"""A person can pause uploads; removals and opt-outs go on."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mm_pipelines.assets.audience_upload import audience_upload
from mm_pipelines.cli import app
from mm_pipelines.delivery import pauses
from mm_pipelines.delivery.errors import UploadsPausedError
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.orchestration import deferrals
from tests.delivery.sandbox_delivery import SPEC, TOKEN, SandboxDelivery, keys, people
from tests.delivery.test_assets import PARTITION, Run, run  # noqa: F401 - a fixture
from tests.delivery.test_lock import Interrupted
from tests.delivery.test_removals import leaving, remove

ROOT = Path(__file__).parents[2]
CROWD = people(1000)
OTHER = replace(SPEC, audience="loyalty", name="Loyalty")


def pause(delivery: SandboxDelivery, audience: str = pauses.EVERY_AUDIENCE) -> None:
    with delivery.database.transaction() as connection:
        pauses.pause(connection, audience)


def resume(delivery: SandboxDelivery, audience: str = pauses.EVERY_AUDIENCE) -> None:
    with delivery.database.transaction() as connection:
        pauses.resume(connection, audience)


def test_a_running_upload_stops_before_its_next_batch_and_continues_after_the_pause(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(CROWD)
    transport = Interrupted(lambda: pause(delivery, SPEC.audience))
    with (
        GraphApiClient(TOKEN, base_url=delivery.sandbox.url, transport=transport) as client,
        pytest.raises(UploadsPausedError, match=r"mm resume acme_newsletter"),
    ):
        delivery.upload(batch_size=100, client=client)
    assert len(delivery.sandbox.batches()) == 1
    with pytest.raises(UploadsPausedError):
        delivery.upload(batch_size=100)

    resume(delivery, SPEC.audience)

    assert delivery.upload(batch_size=100).rows == 900
    assert delivery.sandbox.members() == keys(CROWD)
    assert [batch["times_received"] for batch in delivery.sandbox.batches()] == [1] * 10


def test_removals_go_on_while_uploads_are_paused(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.upload()
    pause(delivery)
    assert remove(delivery, leaving(emails=[CROWD[3][0]])).removed_people == 1


def test_a_pause_of_one_audience_leaves_the_others(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD, audience=OTHER.audience)
    pause(delivery, SPEC.audience)
    assert delivery.upload(spec=OTHER).rows == 1000


def test_a_pause_of_all_is_ended_only_for_all(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    pause(delivery)
    resume(delivery, SPEC.audience)
    with pytest.raises(UploadsPausedError):
        delivery.upload()
    resume(delivery)
    assert delivery.upload().rows == 1000


def test_a_paused_run_is_deferred_and_due_after_the_command(
    delivery: SandboxDelivery,
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MM_CONFIG", str(ROOT / "tests/mm.yaml"))
    monkeypatch.setenv("MM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MM_DATABASE_URL", delivery.database.url)
    commands = CliRunner()
    assert commands.invoke(app, ["pause", SPEC.audience]).exit_code == 0
    delivery.publish(CROWD)

    result = run(audience_upload)

    assert result.success
    with delivery.database.transaction() as connection:
        deferral = deferrals.find(connection, "audience_upload", PARTITION)
    assert deferral is not None
    assert deferral.due_at > datetime.now(UTC)
    assert SPEC.audience in commands.invoke(app, ["uploads"]).stdout
    assert "paused" in commands.invoke(app, ["status"]).stdout

    assert commands.invoke(app, ["resume", SPEC.audience]).exit_code == 0

    with delivery.database.transaction() as connection:
        due = deferrals.find(connection, "audience_upload", PARTITION)
        assert due is not None
        assert due.due_at <= datetime.now(UTC)
        assert pauses.find_all(connection) == []


def test_an_unknown_audience_is_not_paused(
    delivery: SandboxDelivery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MM_CONFIG", str(ROOT / "tests/mm.yaml"))
    monkeypatch.setenv("MM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MM_DATABASE_URL", delivery.database.url)
    assert CliRunner().invoke(app, ["pause", "nowhere"]).exit_code == 1
    with delivery.database.transaction() as connection:
        assert pauses.find_all(connection) == []
