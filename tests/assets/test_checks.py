"""Checks keep their result for each partition."""

import dagster as dg

from mm_pipelines.definitions import defs
from mm_pipelines.orchestration.checks import partitioned_check

DAYS = dg.StaticPartitionsDefinition(["monday", "tuesday"])


def test_every_check_is_partitioned_like_its_asset() -> None:
    graph = defs.resolve_asset_graph()
    differing = {
        key.to_user_string()
        for key in graph.asset_check_keys
        if graph.get_check_spec(key).partitions_def != graph.get(key.asset_key).partitions_def
    }
    assert differing == set()


def test_a_failed_check_of_one_partition_survives_the_success_of_another() -> None:
    @dg.asset(
        partitions_def=DAYS,
        check_specs=[
            partitioned_check("fine", asset="sky", partitions_def=DAYS, description="It is blue.")
        ],
    )
    def sky(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        result = dg.AssetCheckResult(
            check_name="fine", passed=context.partition_key == "tuesday", metadata={"clouds": 1}
        )
        return dg.MaterializeResult(check_results=[result])

    passed = {}
    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("monday", "tuesday"):
            result = dg.materialize([sky], partition_key=day, instance=instance)
            (evaluation,) = result.get_asset_check_evaluations()
            passed[evaluation.partition] = evaluation.passed
    assert passed == {"monday": False, "tuesday": True}
