"""Removals that are requested during an upload are carried out before its next batch."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from mm_pipelines.consent import audience_cleanup
from mm_pipelines.consent.audience_cleanup import OptOuts, remove_opted_out_members
from mm_pipelines.consent.audience_search import search
from mm_pipelines.consent.opt_outs import OptOutSummary, suppress
from mm_pipelines.delivery.removal_lists import remove_listed
from mm_pipelines.delivery.upload import UploadSummary
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.suppression.suppression_list import match_suppressed
from mm_pipelines.warehouse.database import LockTakenError
from tests.consent.page import KEY, PLAN, Page
from tests.delivery.sandbox_delivery import DAY, SPEC, TOKEN, SandboxDelivery, keys, people
from tests.delivery.test_lock import Interrupted
from tests.delivery.test_membership import standing
from tests.delivery.test_removals import leaving, listed

CROWD = people(1000)


def upload_while(
    delivery: SandboxDelivery, happens: Callable[[], None], **options: Any
) -> UploadSummary:
    """Upload in batches of 100; something happens just after the first is answered."""
    client = GraphApiClient(TOKEN, base_url=delivery.sandbox.url, transport=Interrupted(happens))
    with client:
        return delivery.upload(
            batch_size=100,
            client=client,
            suppressed_among=partial(match_suppressed, delivery.database, KEY),
            removal_sources=[OptOuts(delivery.database, delivery.storage, KEY, DAY)],
            **options,
        )


def operations(delivery: SandboxDelivery) -> list[str]:
    """The kind of each batch at Meta, in order."""
    return [batch["kind"] for batch in delivery.sandbox.get("calls")["batches"]]


def opt_out(delivery: SandboxDelivery, email: str) -> None:
    """Suppress a person."""
    page = Page(delivery.database, delivery.storage, delivery.sandbox.url)
    page.request(email=email)
    suppress(delivery.database, PLAN, OptOutSummary())
    search(delivery.database, delivery.storage, KEY)


def request_removal(delivery: SandboxDelivery, *emails: str) -> None:
    """Request a removal list, as a run does that does not get the audience's lock."""
    with delivery.client() as client, pytest.raises(LockTakenError):
        remove_listed(delivery.context(client), listed(delivery, leaving(emails=[*emails])))


def pending_lists(delivery: SandboxDelivery) -> int:
    with delivery.database.transaction() as connection:
        return int(
            connection.scalar(text("select count(*) from mm.removal_list where done_at is null"))
            or 0
        )


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_a_removal_list_does_not_wait_for_the_upload(
    delivery: SandboxDelivery, side_by_side: int
) -> None:
    delivery.publish(CROWD)
    # One of them is in the first batch, the other is not sent yet.
    gone = [CROWD[5], CROWD[470]]

    summary = upload_while(
        delivery,
        lambda: request_removal(delivery, *[email for email, _ in gone]),
        side_by_side=side_by_side,
    )

    rest = [person for person in CROWD if person not in gone]
    assert delivery.sandbox.members() == standing(delivery) == keys(rest)
    assert summary.people_in_audience == 998
    if side_by_side == 1:
        assert operations(delivery)[:2] == ["add", "remove"]
        assert summary.left_out == 1
    assert pending_lists(delivery) == 0


def test_an_opt_out_does_not_wait_for_the_upload(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)

    def happens() -> None:
        opt_out(delivery, CROWD[5][0])
        opt_out(delivery, CROWD[470][0])

    summary = upload_while(delivery, happens)

    rest = [person for person in CROWD if person not in (CROWD[5], CROWD[470])]
    assert delivery.sandbox.members() == standing(delivery) == keys(rest)
    assert summary.left_out == 1
    assert operations(delivery)[:2] == ["add", "remove"]
    assert operations(delivery).count("remove") == 1


def test_a_removal_that_concerns_no_one_changes_nothing(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    summary = upload_while(delivery, lambda: request_removal(delivery, "stranger@example.com"))
    assert delivery.sandbox.members() == keys(CROWD)
    assert summary.rows == 1000
    sessions = {batch["session_id"] for batch in delivery.sandbox.batches()}
    assert len(sessions) == 1
    assert pending_lists(delivery) == 0


def test_a_refused_removal_does_not_stop_the_upload(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post("refusals", hashes=[], schema_keys=["EMAIL"], operations=["remove"])

    upload_while(delivery, lambda: request_removal(delivery, CROWD[5][0]))

    assert delivery.sandbox.members() == keys(CROWD)
    assert any("Meta refuses" in line for line in delivery.lines)
    assert pending_lists(delivery) == 1


def test_a_stuck_upload_delays_no_other_audience(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post(
        "faults", path="*/users", nth=2, times=1, error={"code": 190, "status": 401}
    )
    with pytest.raises(TokenError):
        delivery.upload(batch_size=100)
    with delivery.database.lock(f"audience:{SPEC.audience}"):
        other = replace(SPEC, audience="loyalty", name="Loyalty")
        delivery.publish(people(200), audience=other.audience)

        assert delivery.upload(spec=other).rows == 200


def test_a_cleanup_falls_due_again_when_the_open_upload_ends(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.sandbox.post(
        "faults", path="*/users", nth=2, times=1, error={"code": 190, "status": 401}
    )
    with pytest.raises(TokenError):
        delivery.upload(batch_size=100)
    opt_out(delivery, CROWD[500][0])
    with delivery.database.transaction() as connection:
        (due,) = audience_cleanup.due(connection)
    with delivery.client() as client:
        remove_opted_out_members(delivery.context(client), due, KEY, DAY)
    with delivery.database.transaction() as connection:
        assert audience_cleanup.due(connection) == []

    # Without the suppression list: as if the person had opted out after it was asked.
    delivery.upload(batch_size=100)

    search(delivery.database, delivery.storage, KEY)
    with delivery.database.transaction() as connection:
        (due,) = audience_cleanup.due(connection)
    with delivery.client() as client:
        assert remove_opted_out_members(delivery.context(client), due, KEY, DAY) == 1
    assert delivery.sandbox.members() == keys([*CROWD[:500], *CROWD[501:]])


def test_a_steady_stream_of_removals_leaves_the_upload_time(delivery: SandboxDelivery) -> None:
    days = iter(range(1000))

    class Stream(Interrupted):
        def handle_request(self, request: Any) -> Any:
            self._answered = 0
            return super().handle_request(request)

    def request() -> None:
        with delivery.database.transaction() as connection:
            connection.execute(
                text(
                    "insert into mm.removal_list (audience, day, source_sha256, paths)"
                    " values (:audience, :day, 'x', :paths)"
                ),
                {
                    "audience": SPEC.audience,
                    "day": DAY + timedelta(days=next(days)),
                    "paths": list(nobody.paths),
                },
            )

    nobody = listed(delivery, leaving(emails=["stranger@example.com"]))
    delivery.publish(CROWD)
    with GraphApiClient(TOKEN, base_url=delivery.sandbox.url, transport=Stream(request)) as client:
        summary = delivery.upload(batch_size=100, client=client)
    assert summary.rows == 1000
