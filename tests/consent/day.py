"""One day's work of a Page as a process of its own, so that it can be killed anywhere.

python day.py <database> <storage> <sandbox> <lists> <day>: hashes and uploads the day's list to two
audiences, takes in what people said, carries out the requests to leave, audience_cleanup, pulls.
"""

import contextlib
import sys
from datetime import date
from pathlib import Path

from mm_pipelines.consent import audience_cleanup
from mm_pipelines.consent.audience_cleanup import remove_opted_out_members
from mm_pipelines.consent.audience_search import search
from mm_pipelines.consent.messenger_events import apply_consent_events, apply_messages
from mm_pipelines.consent.opt_outs import (
    OptOutPlan,
    OptOutSummary,
    receive_list,
    suppress,
    unsubscribe_at_meta,
)
from mm_pipelines.delivery.context import DeliveryContext, Sending
from mm_pipelines.delivery.custom_audience import AudienceSpec
from mm_pipelines.delivery.upload import upload
from mm_pipelines.delivery.upload_plan import UploadPlan
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.lists import FileSource
from mm_pipelines.payload import build_hashed_payload, registry
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.suppression.suppression_list import SuppressionList
from mm_pipelines.tokens.pull import pull_tokens
from mm_pipelines.warehouse.database import Database

PAGE_ID = "134141414124123"
KEY = SuppressionKeys(b"suppression key of the tests")
AUDIENCES = ("newsletter", "loyalty")
SENDING = Sending(batch_size=500)


def main(database_url: str, storage_url: str, sandbox: str, lists: str, day_text: str) -> None:
    """Do the day's work; a second run resumes where the first stopped."""
    database, storage, day = (
        Database(database_url),
        Storage(storage_url),
        date.fromisoformat(day_text),
    )
    plan = OptOutPlan(PAGE_ID, KEY, default_country="US", chunk=100)
    with GraphApiClient(
        "EAAtoken", base_url=sandbox, retries=RetryPolicy(attempts=4, first_wait=0.01)
    ) as client:
        # The list is hashed before the day's opt-outs are known, so it is stale.
        for audience in AUDIENCES:
            hash_list(database, storage, f"{lists}/customers.csv", audience, day)
        summary = OptOutSummary()
        receive_list(database, f"{lists}/leaving-{day}.csv", plan, day, summary)
        opt_outs = suppress(database, plan, summary)
        for audience in AUDIENCES:
            upload(context(database, storage, client), upload_plan(audience, day))
        apply_messages(database, PAGE_ID, "run")
        apply_consent_events(database, PAGE_ID, "run")
        opt_outs = suppress(database, plan, summary)
        with contextlib.suppress(GraphApiError):  # the sensor would ask again; so does the test
            unsubscribe_at_meta(database, client, opt_outs, plan, summary)
        clean(database, storage, client, day)
        pull_tokens(client, database, PAGE_ID, removal_share=1.0)
    database.dispose()


def hash_list(database: Database, storage: Storage, url: str, audience: str, day: date) -> None:
    """Publish the day's payload without suppressed people."""
    payload = build_hashed_payload(
        FileSource(url),
        storage,
        folder=f"hashed_payload/{audience}/{day}",
        default_country="US",
        suppression=SuppressionList.load(database, KEY),
    )
    with database.transaction() as connection:
        registry.record(
            connection,
            registry.HashedPayload(
                audience, day, sha256=payload.sha256, path=payload.path, rows=payload.accepted
            ),
        )


def context(database: Database, storage: Storage, client: GraphApiClient) -> DeliveryContext:
    """The resources of the deliveries."""
    return DeliveryContext(database, storage, client, lambda _: None, SENDING)


def upload_plan(audience: str, day: date) -> UploadPlan:
    """How the day's payload is delivered."""
    spec = AudienceSpec(
        audience=audience,
        page_id=PAGE_ID,
        ad_account_id="12348141984909088",
        name=f"Acme {audience}",
        description="Customers who agreed to marketing messages",
    )
    return UploadPlan(spec, day)


def clean(database: Database, storage: Storage, client: GraphApiClient, day: date) -> None:
    """Search the audiences, and clean up until none is due."""
    while True:
        search(database, storage, KEY)
        with database.transaction() as connection:
            due = audience_cleanup.due(connection)
        if not due:
            return
        for audience in due:
            remove_opted_out_members(context(database, storage, client), audience, KEY, day)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
