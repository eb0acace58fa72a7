"""The sensors: they read what is due and ask for runs; what they ask for, assets acknowledge."""

from mm_pipelines.sensors.customer_list import customer_list_sensor
from mm_pipelines.sensors.optin import optin_sensor
from mm_pipelines.sensors.unsubscribe import unsubscribe_sensor
from mm_pipelines.sensors.upload_status import upload_status_sensor

__all__ = ["customer_list_sensor", "optin_sensor", "unsubscribe_sensor", "upload_status_sensor"]
