"""Asset checks that are partitioned like their asset."""

import warnings

import dagster as dg

from mm_pipelines.naming import asset_key


def partitioned_check(
    name: str,
    *,
    asset: str,
    partitions_def: dg.PartitionsDefinition,
    description: str,
    blocking: bool = False,
) -> dg.AssetCheckSpec:
    """Specify a check whose result is kept for each partition.

    Without partitions, Dagster shows the latest result only, so the success of one partition hides
    the failure of another. Dagster 1.13 marks partitioned checks as preview: this is the one place
    that uses them, and it silences that warning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name,
            asset=asset_key(asset),
            description=description,
            blocking=blocking,
            partitions_def=partitions_def,
        )
