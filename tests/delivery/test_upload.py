"""A payload is delivered whole, in batches, once; the next one only as far as it is new."""

from dataclasses import replace
from datetime import date, timedelta

import httpx
import pytest
from sqlalchemy import text

from mm_pipelines.delivery.errors import (
    AudienceMismatchError,
    PayloadIncompleteError,
    PayloadMissingError,
    TooManyRemovalsError,
)
from mm_pipelines.delivery.preview import preview
from mm_pipelines.delivery.upload_plan import UploadPlan
from mm_pipelines.graph_api.client import GraphApiClient
from mm_pipelines.payload import registry
from mm_pipelines.warehouse.database import LockTakenError
from tests.delivery.sandbox_delivery import DAY, SPEC, TOKEN, SandboxDelivery, keys, people

TOMORROW = DAY + timedelta(days=1)


def test_everybody_in_a_payload_is_delivered_in_one_session(delivery: SandboxDelivery) -> None:
    delivery.publish(people(2500))

    summary = delivery.upload()

    assert delivery.sandbox.members() == keys(people(2500))
    assert (summary.batches, summary.rows, summary.new_people) == (3, 2500, 2500)
    assert summary.people_in_audience == 2500
    batches = delivery.sandbox.batches()
    assert [batch["num_rows"] for batch in batches] == [1000, 1000, 500]
    assert [batch["batch_seq"] for batch in batches] == [1, 2, 3]
    assert len({batch["session_id"] for batch in batches}) == 1


def test_the_same_payload_again_sends_nothing(delivery: SandboxDelivery) -> None:
    delivery.publish(people(1500))
    delivery.upload()

    summary = delivery.upload()

    assert summary.rows == 0
    assert summary.skipped is not None
    assert len(delivery.sandbox.batches()) == 2


def test_a_changed_payload_sends_only_the_new_people(delivery: SandboxDelivery) -> None:
    delivery.publish(people(1500))
    delivery.upload()
    delivery.publish(people(1600, start=100))

    summary = delivery.upload()

    assert summary.rows == 200
    assert summary.people_in_audience == 1700
    assert delivery.sandbox.members() == keys(people(1700))


def test_the_next_days_list_sends_only_the_new_people(delivery: SandboxDelivery) -> None:
    delivery.publish(people(1500))
    delivery.upload()
    delivery.publish(people(20, start=1490), day=TOMORROW)

    summary = delivery.upload(day=TOMORROW)

    assert summary.rows == 10
    assert [batch["num_rows"] for batch in delivery.sandbox.batches()] == [1000, 500, 10]


def test_a_changed_name_does_not_make_a_new_person(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300), FN="ann")
    delivery.upload()
    delivery.publish(people(300), FN="anne", LN="smith")
    assert delivery.upload().rows == 0


def test_sessions_side_by_side_deliver_the_same_set(delivery: SandboxDelivery) -> None:
    delivery.publish(people(5250))

    delivery.upload(batch_size=500, side_by_side=3)

    assert delivery.sandbox.members() == keys(people(5250))
    batches = delivery.sandbox.batches()
    assert sum(batch["num_rows"] for batch in batches) == 5250
    assert len({batch["session_id"] for batch in batches}) == 3


def test_a_mirrored_list_removes_who_is_no_longer_in_it(delivery: SandboxDelivery) -> None:
    delivery.publish(people(1000))
    delivery.upload(mode="mirror")
    delivery.publish(people(900, start=200), day=TOMORROW)

    summary = delivery.upload(mode="mirror", day=TOMORROW)

    assert (summary.removed_people, summary.new_people) == (200, 100)
    assert delivery.sandbox.members() == keys(people(900, start=200))
    assert summary.people_in_audience == 900


def test_a_mirrored_list_that_would_remove_too_many_stops_and_says_how_to_go_on(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(people(1000))
    delivery.upload(mode="mirror")
    delivery.publish(people(500), day=TOMORROW)

    with pytest.raises(TooManyRemovalsError, match=r"500 of the 1,000.*50%.*accept_removals: true"):
        delivery.upload(mode="mirror", day=TOMORROW)
    assert len(delivery.sandbox.members()) == 1000

    delivery.upload(mode="mirror", day=TOMORROW, accept_removals=True)
    assert delivery.sandbox.members() == keys(people(500))


def test_an_identifier_that_a_remaining_person_shares_is_not_removed(
    delivery: SandboxDelivery,
) -> None:
    crowd = people(10)
    delivery.publish([*crowd, ("", "15559999999"), ("gone@example.com", "15559999999")])
    delivery.upload(mode="mirror")
    delivery.publish([*crowd, ("", "15559999999")])

    delivery.upload(mode="mirror")

    assert delivery.sandbox.members() == keys([*crowd, ("", "15559999999")])


def test_an_older_list_does_not_undo_a_newer_one_that_is_mirrored(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(people(100), day=TOMORROW)
    delivery.upload(mode="mirror", day=TOMORROW)
    delivery.publish(people(90), day=DAY)

    summary = delivery.upload(mode="mirror", day=DAY)

    assert summary.skipped is not None
    assert "newer list" in summary.skipped
    assert delivery.sandbox.members() == keys(people(100))


def test_removals_go_by_post_where_the_setting_says_so(delivery: SandboxDelivery) -> None:
    sent: list[str] = []

    class Recording(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(f"{request.method} {request.url.params.get('method', '')}".strip())
            return super().handle_request(request)

    delivery.publish(people(100))
    delivery.upload(mode="mirror")
    delivery.publish(people(90))
    client = GraphApiClient(TOKEN, base_url=delivery.sandbox.url, transport=Recording())

    delivery.upload(mode="mirror", delete_via_post=True, client=client)

    assert sent == ["POST DELETE"]
    assert delivery.sandbox.members() == keys(people(90))


def test_without_a_payload_the_upload_names_the_asset_to_materialize(
    delivery: SandboxDelivery,
) -> None:
    with pytest.raises(PayloadMissingError, match="materialize hashed_payload first"):
        delivery.upload(day=date(2026, 11, 1))


def test_a_payload_with_lost_rows_is_not_uploaded(delivery: SandboxDelivery) -> None:
    payload = delivery.publish(people(100))
    with delivery.database.transaction() as connection:
        registry.record(connection, replace(payload, no_row_lost=False))
    with pytest.raises(PayloadIncompleteError, match="check no_row_lost"):
        delivery.upload()
    assert delivery.sandbox.batches() == []
    with delivery.database.transaction() as connection:
        registry.record(connection, payload)
    assert delivery.upload().rows == 100


def test_rows_that_meta_calls_invalid_are_known_by_their_number_in_the_source(
    delivery: SandboxDelivery,
) -> None:
    crowd = people(1200)
    delivery.publish(crowd, unhashed={7: "EMAIL", 1104: "PHONE"})

    summary = delivery.upload()

    assert summary.invalid_entries == 2
    with delivery.database.transaction() as connection:
        rejected = connection.execute(
            text("select stage, row_number, reasons from mm.rejected_row")
        )
        assert {tuple(row[:2]) for row in rejected} == {
            ("audience_upload", 7),
            ("audience_upload", 1104),
        }


@pytest.mark.parametrize("shape", ["map", "array"])
def test_both_shapes_of_invalid_samples_are_read(delivery: SandboxDelivery, shape: str) -> None:
    delivery.sandbox.post("variants", invalid_samples=shape)
    delivery.publish(people(300), unhashed={42: "EMAIL"})

    delivery.upload()

    with delivery.database.transaction() as connection:
        assert connection.scalars(text("select row_number from mm.rejected_row")).all() == [42]


@pytest.mark.parametrize("shape", ["empty_map", "empty_array"])
def test_invalid_entries_without_samples_are_counted_all_the_same(
    delivery: SandboxDelivery, shape: str
) -> None:
    delivery.sandbox.post("variants", invalid_samples=shape)
    delivery.publish(people(300), unhashed={42: "EMAIL"})
    assert delivery.upload().invalid_entries == 1


def test_a_preview_counts_and_leaves_no_trace(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))

    before = preview(delivery.database, delivery.storage, UploadPlan(SPEC, DAY))

    assert (before.exists, before.new_people) == (False, 300)
    assert delivery.sandbox.get("audiences") == []
    delivery.upload()
    delivery.publish(people(280, start=50), day=TOMORROW)
    mirrored = preview(
        delivery.database, delivery.storage, UploadPlan(SPEC, TOMORROW, mode="mirror")
    )
    assert (mirrored.new_people, mirrored.removed_people, mirrored.people_in_audience) == (
        30,
        50,
        300,
    )
    assert len(delivery.sandbox.batches()) == 1


def test_two_uploads_to_one_audience_at_once_are_impossible(delivery: SandboxDelivery) -> None:
    delivery.publish(people(100))
    with delivery.database.lock(f"audience:{SPEC.audience}"), pytest.raises(LockTakenError):
        delivery.upload()
    assert delivery.sandbox.get("calls")["calls"] == []


def test_an_audience_that_moved_to_another_ad_account_is_refused(delivery: SandboxDelivery) -> None:
    delivery.publish(people(100))
    delivery.upload()
    moved = replace(SPEC, ad_account_id="99")
    with pytest.raises(
        AudienceMismatchError, match=r"ad_account_id 99.*give the audience a new key"
    ):
        delivery.upload(spec=moved)
