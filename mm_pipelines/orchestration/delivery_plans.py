"""What to deliver and how, by mm.yaml: shared by the assets that add and remove people."""

from collections.abc import Callable
from datetime import datetime

from mm_pipelines.consent.audience_cleanup import OptOuts
from mm_pipelines.delivery.context import DeliveryContext, Sending
from mm_pipelines.delivery.custom_audience import AudienceSpec
from mm_pipelines.delivery.upload_plan import UploadPlan
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.partitions import CONFIG, AudienceDay
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource


def audience_spec(audience: str) -> AudienceSpec:
    """The audience in mm.yaml, as Meta needs it."""
    return AudienceSpec.of(CONFIG, audience)


def upload_plan(partition: AudienceDay, *, accept_removals: bool = False) -> UploadPlan:
    """How to deliver a partition."""
    return UploadPlan.of(CONFIG, partition.audience, partition.day, accept_removals=accept_removals)


def sending() -> Sending:
    """How to send batches."""
    settings = CONFIG.settings
    return Sending(
        batch_size=settings.batch_size,
        sessions_side_by_side=settings.sessions_side_by_side,
        delete_via_post=settings.delete_via_post,
        minimum_upload=settings.minimum_upload,
    )


def opt_outs(
    database: DatabaseResource, storage: StorageResource, suppression: SuppressionResource
) -> OptOuts:
    """The opt-outs that an upload carries out before its next batch."""
    today = datetime.now(CONFIG.zone).date()
    return OptOuts(database.get(), storage.get(), suppression.get(), today)


def delivery_context(
    database: DatabaseResource,
    storage: StorageResource,
    client: GraphApiClient,
    say: Callable[[str], None],
) -> DeliveryContext:
    """The resources of a run's delivery."""
    return DeliveryContext(database.get(), storage.get(), client, say, sending())
