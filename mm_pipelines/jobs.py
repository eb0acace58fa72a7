"""Jobs: each holds the assets of one partition set (design 4)."""

import dagster as dg

from assets.audience_upload import audience_upload
from assets.customer_list import customer_list
from assets.hashed_payload import hashed_payload
from assets.match_status import match_status

daily_upload = dg.define_asset_job(
    "daily_upload",
    selection=dg.AssetSelection.assets(
        customer_list, hashed_payload, audience_upload, match_status
    ),
    description="One audience's list of one day: validated, hashed, delivered, its status noted.",
)
