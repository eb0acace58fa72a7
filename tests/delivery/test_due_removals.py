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
from tests.delivery.desk import DAY, SPEC, TOKEN, Desk, keys, people
from tests.delivery.test_lock import Interrupted
from tests.delivery.test_membership import standing
from tests.delivery.test_removals import leaving, listed

CROWD = people(1000)


def upload_while(desk: Desk, happens: Callable[[], None], **options: Any) -> UploadSummary:
    """Upload in batches of 100; something happens just after the first is answered."""
    client = GraphApiClient(TOKEN, base_url=desk.sandbox.url, transport=Interrupted(happens))
    with client:
        return desk.upload(
            batch_size=100,
            client=client,
            suppressed_among=partial(match_suppressed, desk.database, KEY),
            removal_sources=[OptOuts(desk.database, desk.storage, KEY, DAY)],
            **options,
        )


def operations(desk: Desk) -> list[str]:
    """The kind of each batch at Meta, in order."""
    return [batch["kind"] for batch in desk.sandbox.get("calls")["batches"]]


def opt_out(desk: Desk, email: str) -> None:
    """Suppress a person."""
    page = Page(desk.database, desk.storage, desk.sandbox.url)
    page.request(email=email)
    suppress(desk.database, PLAN, OptOutSummary())
    search(desk.database, desk.storage, KEY)


def request_removal(desk: Desk, *emails: str) -> None:
    """Request a removal list, as a run does that does not get the audience's lock."""
    with desk.client() as client, pytest.raises(LockTakenError):
        remove_listed(desk.context(client), listed(desk, leaving(emails=[*emails])))


def pending_lists(desk: Desk) -> int:
    with desk.database.transaction() as connection:
        return int(
            connection.scalar(text("select count(*) from mm.removal_list where done_at is null"))
            or 0
        )


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_a_removal_list_does_not_wait_for_the_upload(desk: Desk, side_by_side: int) -> None:
    desk.publish(CROWD)
    # One of them is in the first batch, the other is not sent yet.
    gone = [CROWD[5], CROWD[470]]

    summary = upload_while(
        desk,
        lambda: request_removal(desk, *[email for email, _ in gone]),
        side_by_side=side_by_side,
    )

    rest = [person for person in CROWD if person not in gone]
    assert desk.sandbox.members() == standing(desk) == keys(rest)
    assert summary.people_in_audience == 998
    if side_by_side == 1:
        assert operations(desk)[:2] == ["add", "remove"]
        assert summary.left_out == 1
    assert pending_lists(desk) == 0


def test_an_opt_out_does_not_wait_for_the_upload(desk: Desk) -> None:
    desk.publish(CROWD)

    def happens() -> None:
        opt_out(desk, CROWD[5][0])
        opt_out(desk, CROWD[470][0])

    summary = upload_while(desk, happens)

    rest = [person for person in CROWD if person not in (CROWD[5], CROWD[470])]
    assert desk.sandbox.members() == standing(desk) == keys(rest)
    assert summary.left_out == 1
    assert operations(desk)[:2] == ["add", "remove"]
    assert operations(desk).count("remove") == 1


def test_a_removal_that_concerns_no_one_changes_nothing(desk: Desk) -> None:
    desk.publish(CROWD)
    summary = upload_while(desk, lambda: request_removal(desk, "stranger@example.com"))
    assert desk.sandbox.members() == keys(CROWD)
    assert summary.rows == 1000
    sessions = {batch["session_id"] for batch in desk.sandbox.batches()}
    assert len(sessions) == 1
    assert pending_lists(desk) == 0


def test_a_refused_removal_does_not_stop_the_upload(desk: Desk) -> None:
    desk.publish(CROWD)
    desk.sandbox.post("refusals", hashes=[], schema_keys=["EMAIL"], operations=["remove"])

    upload_while(desk, lambda: request_removal(desk, CROWD[5][0]))

    assert desk.sandbox.members() == keys(CROWD)
    assert any("Meta refuses" in line for line in desk.lines)
    assert pending_lists(desk) == 1


def test_a_stuck_upload_delays_no_other_audience(desk: Desk) -> None:
    desk.publish(CROWD)
    desk.sandbox.post("faults", path="*/users", nth=2, times=1, error={"code": 190, "status": 401})
    with pytest.raises(TokenError):
        desk.upload(batch_size=100)
    with desk.database.lock(f"audience:{SPEC.audience}"):
        other = replace(SPEC, audience="loyalty", name="Loyalty")
        desk.publish(people(200), audience=other.audience)

        assert desk.upload(spec=other).rows == 200


def test_a_cleanup_falls_due_again_when_the_open_upload_ends(desk: Desk) -> None:
    desk.publish(CROWD)
    desk.sandbox.post("faults", path="*/users", nth=2, times=1, error={"code": 190, "status": 401})
    with pytest.raises(TokenError):
        desk.upload(batch_size=100)
    opt_out(desk, CROWD[500][0])
    with desk.database.transaction() as connection:
        (due,) = audience_cleanup.due(connection)
    with desk.client() as client:
        remove_opted_out_members(desk.context(client), due, KEY, DAY)
    with desk.database.transaction() as connection:
        assert audience_cleanup.due(connection) == []

    # Without the suppression list: as if the person had opted out after it was asked.
    desk.upload(batch_size=100)

    search(desk.database, desk.storage, KEY)
    with desk.database.transaction() as connection:
        (due,) = audience_cleanup.due(connection)
    with desk.client() as client:
        assert remove_opted_out_members(desk.context(client), due, KEY, DAY) == 1
    assert desk.sandbox.members() == keys([*CROWD[:500], *CROWD[501:]])


def test_a_steady_stream_of_removals_leaves_the_upload_time(desk: Desk) -> None:
    days = iter(range(1000))

    class Stream(Interrupted):
        def handle_request(self, request: Any) -> Any:
            self._answered = 0
            return super().handle_request(request)

    def request() -> None:
        with desk.database.transaction() as connection:
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

    nobody = listed(desk, leaving(emails=["stranger@example.com"]))
    desk.publish(CROWD)
    with GraphApiClient(TOKEN, base_url=desk.sandbox.url, transport=Stream(request)) as client:
        summary = desk.upload(batch_size=100, client=client)
    assert summary.rows == 1000
