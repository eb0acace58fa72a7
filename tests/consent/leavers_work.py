"""The work of one Page that the sensors request, as a process that can be killed anywhere.

python leavers_work.py <database> <storage> <sandbox> <lists> <page id> <all page ids>
"""

import contextlib
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from mm_pipelines.consent import audience_cleanup
from mm_pipelines.consent.audience_cleanup import remove_opted_out_members
from mm_pipelines.consent.audience_search import search
from mm_pipelines.consent.erasure.erase import ErasurePlan, erase
from mm_pipelines.consent.messenger_events import apply_consent_events, apply_messages
from mm_pipelines.consent.opt_outs import (
    OptOutPlan,
    OptOutSummary,
    receive_list,
    suppress,
    unsubscribe_at_meta,
)
from mm_pipelines.delivery.upload import upload
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import GraphApiError
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.storage import Storage
from mm_pipelines.tokens.pull import pull_tokens
from mm_pipelines.warehouse.database import Database
from tests.consent.day import context, hash_list, upload_plan
from tests.consent.page import KEY

DAY = date(2026, 11, 20)


def client_of(sandbox: str) -> GraphApiClient:
    """A client that hardly waits."""
    return GraphApiClient(
        "EAAtoken", base_url=sandbox, retries=RetryPolicy(attempts=4, first_wait=0.01)
    )


def deliver(
    database: Database,
    storage: Storage,
    client: GraphApiClient,
    lists: str,
    page_id: str,
    day: date,
) -> None:
    """Hash the Page's customer list and upload it."""
    audience = f"customers_{page_id}"
    hash_list(database, storage, f"{lists}/customers-{page_id}.csv", audience, day)
    plan = upload_plan(audience, day)
    plan = replace(plan, spec=replace(plan.spec, page_id=page_id, name=audience))
    upload(context(database, storage, client), plan)


def main(
    database_url: str, storage_url: str, sandbox: str, lists: str, page_id: str, page_ids: str
) -> None:
    """Do what is due for the Page; a second run resumes where the first stopped."""
    database, storage = Database(database_url), Storage(storage_url)
    plan = OptOutPlan(page_id, KEY, default_country="US", chunk=100)
    summary = OptOutSummary()
    with client_of(sandbox) as client:
        apply_messages(database, page_id, "run", KEY)
        apply_consent_events(database, page_id, "run", KEY)
        receive_list(database, f"{lists}/leaving-{page_id}.csv", plan, DAY, summary)
        erase(database, storage, ErasurePlan(page_ids.split(","), KEY))
        opt_outs = suppress(database, plan, summary)
        with contextlib.suppress(GraphApiError):
            unsubscribe_at_meta(database, client, opt_outs, plan, summary)
        search(database, storage, KEY)
        with database.transaction() as connection:
            found = audience_cleanup.due(connection)
        for cleanup in found:
            if cleanup.page_id == page_id:
                with contextlib.suppress(GraphApiError):
                    resources = context(database, storage, client)
                    remove_opted_out_members(resources, cleanup, KEY, DAY)
        pull_tokens(client, database, page_id, removal_share=1.0, suppression_keys=KEY)
    database.dispose()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
