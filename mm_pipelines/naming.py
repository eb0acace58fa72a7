"""The names of our definitions in Dagster, with the prefix that mm.yaml gives them.

In a code location that also has other assets, ``asset_key_prefix`` keeps the names apart.
"""

from collections.abc import Sequence
from typing import Final

import dagster as dg

from mm_pipelines.partitions import CONFIG

KEY_PREFIX: Final[Sequence[str]] = CONFIG.asset_key_prefix
"""The parts before the name in the key of each of our assets."""


def asset_key(name: str) -> dg.AssetKey:
    """The key of an asset of ours."""
    return dg.AssetKey(CONFIG.asset_path(name))


def asset_name(key: dg.AssetKey) -> str:
    """The name of an asset of ours without the prefix; the whole key of any other asset."""
    ours = list(key.path[:-1]) == list(KEY_PREFIX)
    return key.path[-1] if ours else key.to_user_string()


def select(*names: str) -> dg.AssetSelection:
    """The selection of assets of ours."""
    return dg.AssetSelection.assets(*(asset_key(name) for name in names))


def prefixed(name: str) -> str:
    """The name of a job, sensor, schedule or op of ours."""
    return CONFIG.dagster_name(name)


def job_name(prefixed_name: str) -> str:
    """The name of a job of ours without the prefix."""
    return prefixed_name.removeprefix(CONFIG.dagster_name(""))
