"""Made-up people, the sandbox's control paths, and an audience to upload to."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import polars as pl
from sqlalchemy import text

from mm_pipelines.delivery import ledger
from mm_pipelines.delivery.batch import Delivered
from mm_pipelines.delivery.context import DeliveryContext, Sending
from mm_pipelines.delivery.custom_audience import AudienceSpec
from mm_pipelines.delivery.removals import RemovalSource
from mm_pipelines.delivery.suppressed import SuppressedAmong, none_suppressed
from mm_pipelines.delivery.upload import UploadSummary, upload
from mm_pipelines.delivery.upload_plan import UploadPlan
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.retry import RetryPolicy
from mm_pipelines.payload import registry
from mm_pipelines.payload.registry import HashedPayload
from mm_pipelines.shared_throttle import SharedThrottle
from mm_pipelines.storage import Storage
from mm_pipelines.warehouse.database import Database

TOKEN = "EAAsystemuser"
DAY = date(2026, 11, 20)
SPEC = AudienceSpec(
    audience="acme_newsletter",
    page_id="134141414124123",
    ad_account_id="12348141984909088",
    name="Acme newsletter",
    description="Customers who agreed to marketing messages",
)


def hashed(value: str) -> str:
    """A value's hash as a payload has it; "" stays."""
    return hashlib.sha256(value.encode()).hexdigest() if value else ""


@dataclass(frozen=True)
class Sandbox:
    """The control paths of the sandbox."""

    url: str

    def get(self, path: str) -> Any:
        """Read something of `/_sandbox`."""
        return httpx.get(f"{self.url}/_sandbox/{path}", timeout=60).raise_for_status().json()

    def post(self, path: str, /, **body: Any) -> Any:
        """Call a control path of `/_sandbox`."""
        answer = httpx.post(f"{self.url}/_sandbox/{path}", json=body, timeout=60)
        return answer.raise_for_status().json()

    def clear_faults(self) -> None:
        """Remove all faults."""
        httpx.delete(f"{self.url}/_sandbox/faults", timeout=60).raise_for_status()

    def audience_id(self) -> str:
        """The one audience's id."""
        (audience,) = self.get("audiences")
        return str(audience["audience_id"])

    def members(self) -> set[str]:
        """The members of the one audience, as "<e-mail hash>|<phone hash>"."""
        return set(self.get(f"audiences/{self.audience_id()}/members")["keys"])

    def batches(self, kind: str = "add") -> list[dict[str, Any]]:
        """Every received batch of a kind, with how often it was received."""
        return [batch for batch in self.get("calls")["batches"] if batch["kind"] == kind]


@dataclass
class SandboxDelivery:
    """Publishes payloads and uploads them to the sandbox; ``lines`` has what uploads log."""

    database: Database
    storage: Storage
    sandbox: Sandbox
    lines: list[str] = field(default_factory=list)

    def client(self, token: str = TOKEN, throttle: SharedThrottle | None = None) -> GraphApiClient:
        """A client with short retries."""
        return GraphApiClient(
            token,
            base_url=self.sandbox.url,
            throttle=throttle,
            retries=RetryPolicy(attempts=3, first_wait=0.01),
        )

    def context(self, client: GraphApiClient, sending: Sending | None = None) -> DeliveryContext:
        """The resources of a delivery."""
        return DeliveryContext(
            self.database, self.storage, client, self.lines.append, sending or Sending(100)
        )

    def publish(
        self,
        people: Sequence[tuple[str, str]],
        *,
        day: date = DAY,
        audience: str = SPEC.audience,
        unhashed: Mapping[int, str] | None = None,
        former_phones: Mapping[int, str] | None = None,
        **more: str,
    ) -> HashedPayload:
        """Publish a payload of (e-mail, phone) with the same value of ``more`` keys in each row.

        The rows numbered in ``unhashed`` have something that is no hash in the column named there.
        """
        frame = payload_frame(people, **more)
        if former_phones:
            former = [hashed(former_phones.get(place, "")) for place in range(len(people))]
            frame = frame.with_columns(former_phone=pl.Series(former))

        for row, name in (unhashed or {}).items():
            plain = pl.when(row_number=row).then(pl.lit(f"plain{row}")).otherwise(pl.col(name))
            frame = frame.with_columns(plain.alias(name))
        return self._publish_frame(frame, day, audience)

    def publish_columns(
        self, columns: Mapping[str, Sequence[str]], *, day: date = DAY
    ) -> HashedPayload:
        """Publish a payload of exactly these schema keys."""
        frame = pl.DataFrame(columns).with_row_index("row_number", offset=1)
        return self._publish_frame(frame, day, SPEC.audience)

    def _publish_frame(self, frame: pl.DataFrame, day: date, audience: str) -> HashedPayload:
        def write(path: Path) -> None:
            frame.write_parquet(path)

        published = self.storage.publish(f"payloads/{audience}", ".parquet", write)
        payload = HashedPayload(audience, day, published.sha256, published.path, frame.height)
        with self.database.transaction() as connection:
            registry.record(connection, payload)
        return payload

    def acknowledged_rows(self) -> int:
        """The rows that the ledger calls acknowledged, of all partitions."""
        with self.database.transaction() as connection:
            rows = connection.scalar(
                text("select sum(row_count) from mm.upload_batch where status = 'acknowledged'")
            )
        return int(rows or 0)

    def delivered(self, day: date = DAY) -> Delivered:
        """The acknowledged part of a day."""
        with self.database.transaction() as connection:
            return ledger.delivered(connection, SPEC.audience, day)

    def upload(
        self,
        *,
        day: date = DAY,
        batch_size: int = 1000,
        side_by_side: int = 1,
        client: GraphApiClient | None = None,
        suppressed_among: SuppressedAmong = none_suppressed,
        removal_sources: Sequence[RemovalSource] = (),
        **plan: Any,
    ) -> UploadSummary:
        """Upload a day's payload."""
        sending = Sending(
            batch_size,
            side_by_side,
            plan.pop("delete_via_post", False),
            plan.pop("minimum_upload", 0),
        )
        wanted = replace(UploadPlan(SPEC, day), **plan)
        with client or self.client() as used:
            return upload(self.context(used, sending), wanted, suppressed_among, removal_sources)


def payload_frame(people: Sequence[tuple[str, str]], **more: str) -> pl.DataFrame:
    """A payload of (e-mail, phone) with the same value of ``more`` keys in each row."""
    return pl.DataFrame(
        {
            "EMAIL": [hashed(email) for email, _ in people],
            "PHONE": [hashed(phone) for _, phone in people],
            **{name: [hashed(value)] * len(people) for name, value in more.items()},
            "row_number": range(1, len(people) + 1),
        },
        schema_overrides={"EMAIL": pl.String, "PHONE": pl.String, "row_number": pl.Int64},
    )


def people(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Made-up people, each known by an e-mail and a phone."""
    return [
        (f"person{number}@example.com", f"1555{number:07}")
        for number in range(start, start + count)
    ]


def keys(listed: Sequence[tuple[str, str]]) -> set[str]:
    """The same people as the sandbox names its members."""
    return {f"{hashed(email)}|{hashed(phone)}" for email, phone in listed}
