"""Sessions are closed by us well before Meta would, and their batches are sequential."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy import text

from mm_pipelines.delivery import deltas
from mm_pipelines.delivery.custom_audience import find_or_create
from mm_pipelines.delivery.deltas import NewDelta
from mm_pipelines.delivery.progress import ProgressLog
from mm_pipelines.delivery.sender import Sender
from mm_pipelines.graph_api.client import GraphApiClient
from tests.delivery.sandbox_delivery import DAY, SPEC, TOKEN, SandboxDelivery, keys, people


class Slow(httpx.HTTPTransport):
    """A Graph API on which every upload takes twenty minutes, by the clock that it moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime.now(UTC)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if request.url.path.endswith("/users"):
            self.now += timedelta(minutes=20)
        return answer


def test_a_session_gets_its_last_batch_before_its_window_ends(delivery: SandboxDelivery) -> None:
    payload = delivery.publish(people(800))
    slow = Slow()
    lines: list[str] = []
    with (
        GraphApiClient(TOKEN, base_url=delivery.sandbox.url, transport=slow) as client,
        delivery.database.lock(f"audience:{SPEC.audience}") as lock,
    ):
        target, _ = find_or_create(lock, delivery.database, client, SPEC)
        new = NewDelta(
            audience=SPEC.audience,
            day=DAY,
            custom_audience_id=target.custom_audience_id,
            operation="add",
            origin="payload",
            source_sha256=payload.sha256,
            path=payload.path,
            row_count=payload.rows,
            keys=("EMAIL", "PHONE"),
        )
        with delivery.database.transaction() as connection:
            delta = deltas.freeze(connection, new)
        context = replace(delivery.context(client), now=lambda: slow.now)
        sender = Sender(lock, context, ProgressLog(lines.append))
        sender.finish(delta)

    assert delivery.sandbox.members() == keys(people(800))
    with delivery.database.transaction() as connection:
        rows = connection.execute(
            text("select batch_seq, last_batch from mm.upload_batch order by first_row")
        )
        assert [tuple(row) for row in rows] == [
            *[(1, False), (2, False), (3, False), (4, False), (5, True)],
            *[(1, False), (2, False), (3, True)],
        ]
