"""An erasure as a process of its own, so that it can be killed anywhere.

python erasing.py <database> <storage>: carries out all requests, a few people at a time.
"""

import sys
from pathlib import Path

from mm_pipelines.consent.erasure.erase import ErasurePlan, erase
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.warehouse.database import Database

PAGE_ID = "134141414124123"
KEY = SuppressionKeys(b"suppression key of the tests")

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    database = Database(sys.argv[1])
    erase(database, Storage(sys.argv[2]), ErasurePlan([PAGE_ID], KEY, people_at_once=3))
    database.dispose()
