"""A delivery that cannot go on names the command that helps, and the command helps."""

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from mm_pipelines.delivery import audience_keys, deltas
from mm_pipelines.delivery.errors import (
    AudienceDeletedError,
    AudienceKeyTakenError,
    AudienceMismatchError,
    DeltaFileMissingError,
)
from mm_pipelines.delivery.ledger import people_acknowledged
from mm_pipelines.delivery.open_uploads import abandon, not_delivered
from mm_pipelines.graph_api.errors import TokenError
from mm_pipelines.warehouse.database import LockTakenError
from tests.delivery.sandbox_delivery import DAY, SPEC, TOKEN, SandboxDelivery, hashed, keys, people
from tests.delivery.test_removals import leaving, remove

TOMORROW = DAY + timedelta(days=1)
CROWD = people(5000)
RENAMED = replace(SPEC, audience="acme_news")


def fail_on_third_batch(delivery: SandboxDelivery) -> None:
    """Leave an upload open, two of its five batches acknowledged."""
    delivery.publish(CROWD)
    delivery.sandbox.post(
        "faults", path="*/users", nth=3, times=None, error={"code": 190, "status": 401}
    )
    with pytest.raises(TokenError):
        delivery.upload()
    delivery.sandbox.clear_faults()


def test_an_open_upload_is_listed_with_its_last_failure(delivery: SandboxDelivery) -> None:
    fail_on_third_batch(delivery)
    with delivery.database.transaction() as connection:
        (upload,) = not_delivered(connection)
    assert (upload.state, upload.people, upload.acknowledged) == ("open", 5000, 2000)
    assert upload.why is not None
    assert "code 190" in upload.why
    assert TOKEN not in upload.why


def test_people_of_an_abandoned_upload_are_part_of_the_next_one(delivery: SandboxDelivery) -> None:
    fail_on_third_batch(delivery)
    (closed,) = abandon(delivery.database, delivery.storage, SPEC.audience)
    assert closed.day == DAY
    delivery.publish(people(10, start=9000), day=TOMORROW)

    summary = delivery.upload(day=TOMORROW)

    assert delivery.sandbox.members() == keys([*CROWD, *people(10, start=9000)])
    assert (summary.rows, summary.people_in_audience) == (3010, 5010)
    with delivery.database.transaction() as connection:
        assert not_delivered(connection) == []


def test_an_upload_that_is_running_is_not_abandoned(delivery: SandboxDelivery) -> None:
    fail_on_third_batch(delivery)
    with delivery.database.lock(f"audience:{SPEC.audience}"), pytest.raises(LockTakenError):
        abandon(delivery.database, delivery.storage, SPEC.audience)


def test_a_lost_delta_file_names_the_command_and_the_next_upload_delivers_everyone(
    delivery: SandboxDelivery,
) -> None:
    fail_on_third_batch(delivery)
    with delivery.database.transaction() as connection:
        (lost,) = deltas.open_of_key(connection, SPEC.audience)
    delivery.storage.delete(lost.path)
    delivery.publish([*CROWD, *people(1, start=9000)])
    with pytest.raises(DeltaFileMissingError, match="mm uploads abandon acme_newsletter"):
        delivery.upload()

    abandon(delivery.database, delivery.storage, SPEC.audience)
    summary = delivery.upload()

    assert delivery.sandbox.members() == keys([*CROWD, *people(1, start=9000)])
    assert summary.people_in_audience == 5001


def test_a_deleted_audience_names_the_command_and_a_new_one_gets_everyone(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(people(300))
    delivery.upload()
    deleted = delivery.sandbox.audience_id()
    with delivery.client() as client:
        client.request("DELETE", deleted, lambda answer: answer.document())
    delivery.publish(people(400), day=TOMORROW)
    with pytest.raises(AudienceDeletedError, match="mm audiences forget acme_newsletter"):
        delivery.upload(day=TOMORROW)

    audience_keys.forget(delivery.database, SPEC.audience)
    summary = delivery.upload(day=TOMORROW)

    assert summary.created
    assert summary.people_in_audience == 400
    found = delivery.sandbox.get(f"audiences/{summary.custom_audience.custom_audience_id}/members")
    assert set(found["keys"]) == keys(people(400))


def test_a_renamed_key_names_the_command_and_keeps_its_history(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))
    delivery.upload()
    custom_audience_id = delivery.sandbox.audience_id()
    delivery.publish(people(301), audience=RENAMED.audience, day=TOMORROW)
    with pytest.raises(
        AudienceKeyTakenError, match=f"mm audiences adopt acme_news {custom_audience_id}"
    ):
        delivery.upload(spec=RENAMED, day=TOMORROW)

    with delivery.client() as client:
        audience_keys.adopt(delivery.database, client, RENAMED, custom_audience_id)
    summary = delivery.upload(spec=RENAMED, day=TOMORROW)

    assert summary.rows == 1
    with delivery.database.transaction() as connection:
        assert people_acknowledged(connection, RENAMED.audience) == 301
        assert people_acknowledged(connection, SPEC.audience) == 0


def test_an_audience_of_another_page_is_not_adopted(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))
    delivery.upload()
    other = replace(RENAMED, page_id="245252525235234")
    with delivery.client() as client, pytest.raises(AudienceMismatchError, match="245252525235234"):
        audience_keys.adopt(delivery.database, client, other, delivery.sandbox.audience_id())


def delete_audience(delivery: SandboxDelivery) -> None:
    """Delete the Custom Audience at Meta, and release the key."""
    with delivery.client() as client:
        client.request("DELETE", delivery.sandbox.audience_id(), lambda answer: answer.document())
    audience_keys.forget(delivery.database, SPEC.audience)


def members_of_new_audience(delivery: SandboxDelivery) -> set[str]:
    newest = [found for found in delivery.sandbox.get("audiences") if not found["deleted"]][-1]
    return set(delivery.sandbox.get(f"audiences/{newest['audience_id']}/members")["keys"])


def test_the_people_of_all_days_are_delivered_to_the_new_audience(
    delivery: SandboxDelivery,
) -> None:
    for number in range(3):
        delivery.publish(people(100, start=100 * number), day=DAY + timedelta(days=number))
        delivery.upload(day=DAY + timedelta(days=number))
    remove(delivery, leaving(emails=[people(1)[0][0]]))
    opted_out = pl.DataFrame({"EMAIL": [hashed(people(2)[1][0])], "PHONE": [""]})
    delete_audience(delivery)
    delivery.publish(people(10, start=300), day=DAY + timedelta(days=3))

    summary = delivery.upload(
        day=DAY + timedelta(days=3), suppressed_among=lambda people, since: opted_out
    )

    assert (summary.former_members, summary.new_people) == (298, 10)
    assert members_of_new_audience(delivery) == keys(people(308, start=2))
    assert summary.people_in_audience == 308
    assert delivery.upload(day=DAY).rows == 0


def test_people_missing_from_the_former_audience_are_delivered_to_the_new_one(
    delivery: SandboxDelivery,
) -> None:
    fail_on_third_batch(delivery)
    delete_audience(delivery)
    delivery.publish(people(10, start=9000), day=TOMORROW)

    delivery.upload(day=TOMORROW)

    assert members_of_new_audience(delivery) == keys([*CROWD, *people(10, start=9000)])


def test_a_mirrored_list_is_the_whole_new_audience(delivery: SandboxDelivery) -> None:
    delivery.publish(people(300))
    delivery.upload(mode="mirror")
    delete_audience(delivery)
    delivery.publish(people(200), day=TOMORROW)
    assert delivery.upload(mode="mirror", day=TOMORROW).rows == 200
    assert members_of_new_audience(delivery) == keys(people(200))
