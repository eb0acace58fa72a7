"""The code location: the only module that assembles assets, jobs, schedules and sensors."""

import logging
import os

import dagster as dg

from mm_pipelines.asset_graph import ASSETS
from mm_pipelines.assets.freshness import FRESHNESS_CHECKS
from mm_pipelines.graph_api.client import DEFAULT_BASE_URL, DEFAULT_VERSION
from mm_pipelines.jobs import daily_report, daily_upload, retention, token_refresh
from mm_pipelines.naming import KEY_PREFIX
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.schedules import (
    access_tokens_schedule,
    audience_audit_schedule,
    daily_removals_schedule,
    daily_report_schedule,
    daily_upload_schedule,
    retention_schedule,
    token_refresh_schedule,
)
from mm_pipelines.sensors import (
    alert_sensor,
    customer_list_sensor,
    dead_run_sensor,
    deferred_work_sensor,
    erasure_sensor,
    freshness_sensor,
    optin_sensor,
    removal_list_sensor,
    sender_file_sensor,
    unsubscribe_sensor,
    upload_status_sensor,
    upstream_sensor,
)

_NEEDED = ("MM_DATABASE_URL", "MM_STORAGE_URL", "MM_SUPPRESSION_KEY")

# Only a warning, because the definitions are also loaded where nothing runs, such as in a check.
if missing := [name for name in _NEEDED if not os.environ.get(name)]:
    logging.getLogger("dagster").warning(
        f"{', '.join(missing)} not set: every run, sensor and schedule will fail. Stop Dagster, "
        'run eval "$(mm env)" in this shell, and start it again; `mm up` does the same.'
    )

defs = dg.Definitions(
    assets=ASSETS,
    asset_checks=FRESHNESS_CHECKS,
    jobs=[daily_upload, token_refresh, daily_report, retention],
    schedules=[
        access_tokens_schedule,
        daily_upload_schedule,
        token_refresh_schedule,
        daily_removals_schedule,
        daily_report_schedule,
        audience_audit_schedule,
        retention_schedule,
    ],
    sensors=[
        dead_run_sensor,
        deferred_work_sensor,
        removal_list_sensor,
        sender_file_sensor,
        upload_status_sensor,
        unsubscribe_sensor,
        erasure_sensor,
        optin_sensor,
        customer_list_sensor,
        upstream_sensor,
        freshness_sensor,
        alert_sensor,
    ],
    resources={
        "mm_database": DatabaseResource(url=dg.EnvVar("MM_DATABASE_URL")),
        "mm_storage": StorageResource(base_url=dg.EnvVar("MM_STORAGE_URL")),
        "mm_suppression": SuppressionResource(key=dg.EnvVar("MM_SUPPRESSION_KEY")),
        "mm_graph_api": GraphApiResource(
            base_url=dg.EnvVar("MM_GRAPH_API_URL").get_value() or DEFAULT_BASE_URL,
            version=dg.EnvVar("MM_GRAPH_API_VERSION").get_value() or DEFAULT_VERSION,
        ),
    },
    # docs/decisions/0018-in-process-executor.md. With a prefix, the location has other assets too,
    # and the executor of their runs is not ours to choose.
    executor=None if KEY_PREFIX else dg.in_process_executor,
)
