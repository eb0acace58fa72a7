"""A run whose lock is lost sends nothing more: another may be at work on the audience by then."""

from collections.abc import Callable

import httpx
import pytest

from mm_pipelines.delivery.removal_lists import remove_listed
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.warehouse.database import LockLostError
from tests.delivery.sandbox_delivery import TOKEN, SandboxDelivery, keys, people
from tests.delivery.test_removals import leaving, listed
from tests.sessions import end_the_locks_session


class Interrupted(httpx.HTTPTransport):
    """The network, on which something happens just after the first batch is answered."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens
        self._answered = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if request.url.path.endswith("/users"):
            self._answered += 1
            if self._answered == 1:
                self._happens()
        return answer


def losing_the_lock(delivery: SandboxDelivery) -> GraphApiClient:
    """A client of a run whose lock PostgreSQL takes away after its first batch."""
    return GraphApiClient(
        TOKEN,
        base_url=delivery.sandbox.url,
        transport=Interrupted(lambda: end_the_locks_session(delivery.database)),
    )


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_an_upload_that_lost_its_lock_stops_and_is_finished_by_the_next(
    delivery: SandboxDelivery, side_by_side: int
) -> None:
    crowd = people(1000)
    delivery.publish(crowd)

    with pytest.raises(LockLostError):
        delivery.upload(batch_size=100, side_by_side=side_by_side, client=losing_the_lock(delivery))

    assert len(delivery.sandbox.batches()) <= side_by_side
    delivery.upload(batch_size=100)
    assert delivery.sandbox.members() == keys(crowd)
    assert delivery.acknowledged_rows() == len(crowd)


def test_a_removal_that_lost_its_lock_stops_and_is_finished_by_the_next(
    delivery: SandboxDelivery,
) -> None:
    crowd = people(600)
    delivery.publish(crowd)
    delivery.upload()
    people_to_remove = listed(delivery, leaving(emails=[email for email, _ in crowd[:300]]))

    def remove(client: GraphApiClient) -> None:
        with client:
            remove_listed(delivery.context(client), people_to_remove)

    with pytest.raises(LockLostError):
        remove(losing_the_lock(delivery))

    assert len(delivery.sandbox.batches("remove")) == 1
    remove(delivery.client())
    assert delivery.sandbox.members() == keys(crowd[300:])
