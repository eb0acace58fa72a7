"""The delivery's assets as Dagster runs them, against the sandbox."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import pytest
from sqlalchemy import text

from mm_pipelines.assets.audience_removals import audience_removals
from mm_pipelines.assets.audience_upload import audience_upload
from mm_pipelines.assets.audiences_at_meta import audiences_at_meta
from mm_pipelines.assets.custom_audience import custom_audience
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from tests.delivery.sandbox_delivery import DAY, SPEC, TOKEN, SandboxDelivery, keys, people

Run = Callable[..., dg.ExecuteInProcessResult]
PARTITION = dg.MultiPartitionKey({"audience": SPEC.audience, "day": DAY.isoformat()})


@pytest.fixture
def run(
    delivery: SandboxDelivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Materialize one asset with the storage of the test."""
    monkeypatch.setenv("MM_SYSTEM_USER_TOKEN", TOKEN)
    instance = dg.DagsterInstance.ephemeral(tempdir=str(tmp_path))

    def materialize(
        asset: dg.AssetsDefinition,
        partition: str | None = PARTITION,
        config: Mapping[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [asset],
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
            resources={
                "mm_database": DatabaseResource(url=delivery.database.url),
                "mm_storage": StorageResource(base_url=str(tmp_path / "storage")),
                "mm_graph_api": GraphApiResource(base_url=delivery.sandbox.url, version="v26.0"),
                "mm_suppression": SuppressionResource(key="the suppression key"),
            },
            run_config={"ops": {asset.key.path[-1]: {"config": dict(config)}}} if config else None,
        )

    with instance:
        yield materialize


def said(result: dg.ExecuteInProcessResult) -> str:
    """Everything that the run's events say."""
    return "\n".join(str(event) for event in result.all_events)


def test_the_custom_audience_is_created_once(delivery: SandboxDelivery, run: Run) -> None:
    for _ in range(2):
        assert run(custom_audience, SPEC.audience).success
    assert len(delivery.sandbox.get("audiences")) == 1


def test_an_audience_created_by_a_run_that_died_before_recording_it_is_found_again(
    delivery: SandboxDelivery, run: Run
) -> None:
    run(custom_audience, SPEC.audience)
    with delivery.database.transaction() as connection:
        connection.execute(text("delete from mm.custom_audience"))
    assert run(custom_audience, SPEC.audience).success
    assert len(delivery.sandbox.get("audiences")) == 1


@pytest.mark.parametrize("shape", ["wrapped", "top_level"])
def test_both_shapes_of_the_answer_to_a_creation_are_read(
    delivery: SandboxDelivery, run: Run, shape: str
) -> None:
    delivery.sandbox.post("variants", create_shape=shape)
    run(custom_audience, SPEC.audience)
    with delivery.database.transaction() as connection:
        recorded = connection.scalars(text("select custom_audience_id from mm.custom_audience"))
        assert recorded.all() == [delivery.sandbox.audience_id()]


def test_an_upload_that_creates_the_audience_says_so_for_that_asset_too(
    delivery: SandboxDelivery, run: Run
) -> None:
    delivery.publish(people(150))

    result = run(audience_upload)

    assert result.success
    assert delivery.sandbox.members() == keys(people(150))
    materialised = {
        event.step_materialization_data.materialization.asset_key.to_user_string(): event.partition
        for event in result.all_events
        if event.is_step_materialization
    }
    assert materialised == {"custom_audience": SPEC.audience, "audience_upload": PARTITION}


def test_the_metadata_says_what_was_delivered(delivery: SandboxDelivery, run: Run) -> None:
    delivery.publish(people(150))
    *_, materialised = run(audience_upload).asset_materializations_for_node("audience_upload")
    told = {name: value.value for name, value in materialised.metadata.items()}
    assert told["dagster/row_count"] == 150
    assert (told["batches"], told["new_people"], told["people_in_audience"]) == (1, 150, 150)
    assert {"rows_per_second", "seconds_waited_for_throttle", "invalid_entries"} <= set(told)


def test_rows_that_meta_cannot_decode_are_shown_by_number_and_fail_the_check(
    delivery: SandboxDelivery, run: Run
) -> None:
    delivery.publish(people(150), unhashed={7: "EMAIL"})
    result = run(audience_upload)
    assert not valid_at_meta(result).passed
    *_, materialized = result.asset_materializations_for_node("audience_upload")
    table = materialized.metadata["rows_rejected_at_meta"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["row"] for record in table.records] == [7]
    assert materialized.metadata["subscribers_received"].value == 150
    assert "plain7" not in said(result)


def test_an_upload_without_subscribers_fails_the_check(delivery: SandboxDelivery, run: Run) -> None:
    delivery.publish(people(150))
    delivery.sandbox.post("variants", subscribers="none")
    result = run(audience_upload)
    assert result.success
    check = valid_at_meta(result)
    assert not check.passed
    assert "150 rows and no subscriber" in str(check.description)
    *_, materialized = result.asset_materializations_for_node("audience_upload")
    assert materialized.metadata["subscribers_received"].value == 0


def valid_at_meta(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    """The outcome of this check."""
    (found,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "valid_at_meta"
    ]
    return found


def test_a_dry_run_observes_by_counts_and_sends_nothing(
    delivery: SandboxDelivery, run: Run
) -> None:
    delivery.publish(people(150))

    result = run(audience_upload, config={"dry_run": True})

    assert result.success
    assert result.asset_materializations_for_node("audience_upload") == []
    (observed,) = result.asset_observations_for_node("audience_upload")
    assert observed.metadata["would_add_people"].value == 150
    assert delivery.sandbox.get("audiences") == []


def test_a_refused_token_fails_at_once_with_what_to_do(delivery: SandboxDelivery, run: Run) -> None:
    delivery.publish(people(150))
    delivery.sandbox.post(
        "faults",
        error={"code": 190, "subcode": 463, "message": "expired", "status": 401},
        times=None,
    )

    result = run(audience_upload)

    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data
    assert error.user_failure_data is not None
    told = {name: value.value for name, value in error.user_failure_data.metadata.items()}
    assert (told["code"], told["subcode"]) == (190, 463)
    assert "make a new one" in str(told["next_step"])
    assert TOKEN not in said(result)


def write_list(path: str, rows: list[str]) -> None:
    """A list of removals where tests/mm.yaml says that they are."""
    with fsspec.open(f"memory://removals/{path}", "wt") as file:
        file.write("\n".join(["email,phone", *rows, ""]))


@pytest.fixture
def removal_lists() -> Iterator[None]:
    """No removal lists but those that the test writes."""
    yield
    memory = fsspec.filesystem("memory")
    if memory.exists("/removals"):
        memory.rm("/removals", recursive=True)


@pytest.mark.usefixtures("removal_lists")
def test_the_lists_of_removals_take_people_out(delivery: SandboxDelivery, run: Run) -> None:
    crowd = people(300)
    delivery.publish(crowd)
    run(audience_upload)
    write_list(f"{DAY}.csv", [f"{crowd[0][0]},"])
    write_list(f"{SPEC.audience}/{DAY}.csv", [f"{crowd[1][0].upper()},", "stranger@example.com,"])

    result = run(audience_removals)

    assert result.success
    assert delivery.sandbox.members() == keys(crowd[2:])
    (materialised,) = result.asset_materializations_for_node("audience_removals")
    told = {name: value.value for name, value in materialised.metadata.items()}
    assert (told["people_listed"], told["removed_people"], told["people_in_audience"]) == (
        3,
        2,
        298,
    )
    assert told["still_in_other_audiences"] == {}
    assert crowd[0][0] not in said(result)


@pytest.mark.usefixtures("removal_lists")
def test_a_removal_list_reads_bare_phone_numbers_by_its_own_convention(
    delivery: SandboxDelivery, run: Run
) -> None:
    crowd = people(300)
    # Read without the country code that the list's other numbers lack, too.
    delivery.publish([*crowd, ("", "494915112345678")])
    run(audience_upload)
    with fsspec.open(f"memory://removals/{DAY}.csv", "wt") as file:
        file.write("phone,country\n4915112345678,DE\n15112345670,DE\n15112345671,DE\n")

    result = run(audience_removals)

    assert result.success
    assert delivery.sandbox.members() == keys(crowd)


def test_a_day_without_a_list_of_removals_removes_no_one(
    delivery: SandboxDelivery, run: Run
) -> None:
    result = run(audience_removals)
    assert result.success
    assert delivery.sandbox.get("calls")["calls"] == []


def test_meta_listing_what_we_know_passes_the_check(delivery: SandboxDelivery, run: Run) -> None:
    delivery.publish(people(150))
    run(audience_upload)

    result = run(audiences_at_meta, None)

    (check,) = result.get_asset_check_evaluations()
    assert check.passed
    (materialised,) = result.asset_materializations_for_node("audiences_at_meta")
    assert materialised.metadata["dagster/row_count"].value == 1


def test_a_deleted_audience_fails_the_check_and_the_sentence_says_what_to_do(
    delivery: SandboxDelivery, run: Run
) -> None:
    delivery.publish(people(150))
    run(audience_upload)
    with delivery.client() as client:
        client.request("DELETE", delivery.sandbox.audience_id(), lambda answer: answer.status)

    (check,) = run(audiences_at_meta, None).get_asset_check_evaluations()

    assert not check.passed
    assert check.description is not None
    assert "was it deleted" in check.description
