"""The sensors read what is due and request runs. The requested assets acknowledge it."""

from mm_pipelines.sensors.alerts import alert_sensor
from mm_pipelines.sensors.customer_list import customer_list_sensor, removal_list_sensor
from mm_pipelines.sensors.dead_runs import dead_run_sensor
from mm_pipelines.sensors.deferred_work import deferred_work_sensor
from mm_pipelines.sensors.erasure import erasure_sensor
from mm_pipelines.sensors.freshness import freshness_sensor
from mm_pipelines.sensors.optin import optin_sensor
from mm_pipelines.sensors.sender_file import sender_file_sensor
from mm_pipelines.sensors.unsubscribe import unsubscribe_sensor
from mm_pipelines.sensors.upload_status import upload_status_sensor
from mm_pipelines.sensors.upstream import upstream_sensor

__all__ = [
    "alert_sensor",
    "customer_list_sensor",
    "dead_run_sensor",
    "deferred_work_sensor",
    "erasure_sensor",
    "freshness_sensor",
    "optin_sensor",
    "removal_list_sensor",
    "sender_file_sensor",
    "unsubscribe_sensor",
    "upload_status_sensor",
    "upstream_sensor",
]
