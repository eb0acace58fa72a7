"""The receiver as a process of its own, for tests that end it: ``DATABASE_URL PORT``."""

import sys

from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks.app import ReceiverSettings
from mm_pipelines.webhooks.server import run
from tests.webhooks.meta import SECRET, VERIFY_TOKEN

if __name__ == "__main__":
    run(
        ReceiverSettings(app_secrets=(SECRET,), verify_token=VERIFY_TOKEN),
        Database(sys.argv[1]),
        host="127.0.0.1",
        port=int(sys.argv[2]),
    )
