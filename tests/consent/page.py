"""A Page in the sandbox and in the database."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

import httpx
from sqlalchemy import text

from mm_pipelines.consent import opt_out_requests
from mm_pipelines.consent.messenger_events import apply_consent_events, apply_messages
from mm_pipelines.consent.opt_out_requests import NewRequest, RequestSource
from mm_pipelines.consent.opt_outs import OptOutPlan, OptOutSummary, suppress, unsubscribe_at_meta
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.tokens.pull import pull_tokens
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from mm_pipelines.webhooks.webhook_event import WebhookEvent

APP_SECRET = "test_app_secret"
PAGE_ID = "134141414124123"
KEY = SuppressionKeys(b"suppression key of the tests")
PLAN = OptOutPlan(PAGE_ID, KEY, default_country="US", chunk=1000)


@dataclass
class Page:
    """A Page in the sandbox and in the database."""

    database: Database
    storage: Storage
    url: str
    plan: OptOutPlan = field(default=PLAN)

    def client(self) -> GraphApiClient:
        """A client that hardly waits."""
        return GraphApiClient(
            "EAApage",
            base_url=self.url,
            retries=RetryPolicy(attempts=3, first_wait=0.01, throttle_wait_limit=0),
        )

    def sandbox(self, path: str, /, **body: Any) -> Any:
        """Call a control path of the sandbox."""
        answer = httpx.post(f"{self.url}/_sandbox/{path}", json=body, timeout=60)
        return answer.raise_for_status().json()

    def calls(self, path: str) -> int:
        """How many calls the sandbox had of a path (a glob without version)."""
        answer = httpx.get(f"{self.url}/_sandbox/calls", timeout=60).raise_for_status()
        return sum(
            call["calls"] for call in answer.json()["calls"] if fnmatchcase(call["path"], path)
        )

    def act(self, deed: str, psid: str | None = None, **more: Any) -> Any:
        """Let a person do something, and its webhook arrive."""
        done = self.sandbox(f"people/{deed}", page_id=PAGE_ID, psid=psid, **more)
        self.sandbox("settle")
        return done

    def apply_webhooks(self) -> None:
        """Let the webhooks take effect."""
        apply_messages(self.database, PAGE_ID, "run")
        apply_consent_events(self.database, PAGE_ID, "run")

    def pull(self) -> None:
        """Pull the Page's tokens."""
        with self.client() as client:
            pull_tokens(client, self.database, PAGE_ID, removal_share=1.0)

    def request(self, source: RequestSource = "command", /, **named: Any) -> None:
        """Store an opt-out request."""
        with self.database.transaction() as connection:
            opt_out_requests.receive(connection, PAGE_ID, [NewRequest(**named)], source)

    def unsubscribe(self, plan: OptOutPlan | None = None) -> OptOutSummary:
        """Carry the open requests out at Meta."""
        summary = OptOutSummary()
        plan = plan or self.plan
        opt_outs = suppress(self.database, plan, summary)
        with self.client() as client:
            unsubscribe_at_meta(self.database, client, opt_outs, plan, summary)
        return summary

    def store(self, *events: WebhookEvent) -> None:
        """Webhooks that the receiver has stored."""
        with self.database.transaction() as connection:
            webhook_event.insert(connection, events)

    def rows(self, statement: str) -> list[Any]:
        """What a table has."""
        with self.database.transaction() as connection:
            return list(connection.execute(text(statement)))

    def sendable(self) -> set[str]:
        """The tokens that may be messaged now."""
        return {row.token for row in self.rows("select token from mm.sendable_token")}


def optin_event(
    number: int, psid: str, token: str | None, when: datetime, status: str | None = None
) -> WebhookEvent:
    """A `messaging_optins` event as the receiver stores it."""
    optin = {"type": "notification_messages", "title": "News", "payload": ""}
    if token:
        optin["notification_messages_token"] = token
    if status:
        optin["notification_messages_status"] = status
    payload = {"sender": {"id": psid}, "recipient": {"id": PAGE_ID}, "optin": optin}
    return WebhookEvent(
        dedupe_key=f"event {number}",
        value_key=f"event {number}",
        object="page",
        field="messaging_optins",
        page_id=PAGE_ID,
        custom_audience_id=None,
        event_time=when,
        payload=json.dumps(payload),
    )
