"""Checks keep their result for each partition."""

import ast
from pathlib import Path

import dagster as dg

from mm_pipelines.definitions import defs
from mm_pipelines.orchestration.checks import partitioned_check

ROOT = Path(__file__).parents[2]
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


def test_every_check_result_has_numbers_for_its_plot() -> None:
    """Dagster plots the numbers in a check's metadata; without them the plot is empty."""
    without = [
        f"{module.relative_to(ROOT)}:{call.lineno}"
        for folder in ("assets", "mm_pipelines/orchestration", "mm_pipelines/sensors")
        for module in sorted((ROOT / folder).glob("*.py"))
        for call in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("AssetCheckResult", "AssetCheckEvaluation")
        and "metadata" not in {keyword.arg for keyword in call.keywords}
    ]
    assert without == []
