"""All of our assets, and which runs of a code location are ours."""

from typing import Final

import dagster as dg

from mm_pipelines import assets
from mm_pipelines.naming import prefixed

ASSETS: Final = dg.load_assets_from_package_module(assets)

ASSET_KEYS: Final = frozenset(
    key for each in ASSETS if isinstance(each, dg.AssetsDefinition) for key in each.keys
)

JOBS: Final = frozenset(
    prefixed(name) for name in ("daily_upload", "token_refresh", "daily_report", "retention")
)


def is_ours(run: dg.DagsterRun) -> bool:
    """Whether the run is of one of our jobs, or of our assets only.

    A code location may also have the assets of another team.
    """
    if run.job_name in JOBS:
        return True
    return bool(run.asset_selection) and ASSET_KEYS.issuperset(run.asset_selection or ())
