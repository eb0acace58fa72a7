"""The sensors: they read what is due and ask for runs; what they ask for, assets acknowledge."""

from mm_pipelines.sensors.customer_list import customer_list_sensor
from mm_pipelines.sensors.upload_status import upload_status_sensor

__all__ = ["customer_list_sensor", "upload_status_sensor"]
