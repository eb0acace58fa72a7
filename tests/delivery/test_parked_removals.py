"""A removal that Meta refuses because the audience is small is tried again when it has grown."""

from datetime import timedelta

from mm_pipelines.delivery import interrupted_deltas
from mm_pipelines.delivery.open_uploads import not_delivered
from tests.delivery.sandbox_delivery import DAY, SandboxDelivery, keys, people
from tests.delivery.test_removals import leaving, remove

CROWD = people(300)


def require(delivery: SandboxDelivery, minimum_members: int) -> None:
    """Let the sandbox refuse removals that leave fewer members."""
    audience_id = delivery.sandbox.audience_id()
    delivery.sandbox.post(f"audiences/{audience_id}/small", minimum_members=minimum_members)


def test_a_parked_removal_is_shown_and_carried_out_after_the_audience_has_grown(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(CROWD)
    delivery.upload()
    require(delivery, 300)

    summary = remove(delivery, leaving(emails=[CROWD[3][0]]))

    assert (summary.removed_people, summary.parked_people) == (0, 1)
    with delivery.database.transaction() as connection:
        (parked,) = not_delivered(connection)
    assert parked.why is not None
    assert "too few" in parked.why
    with delivery.database.transaction() as connection:
        assert interrupted_deltas.find(connection, idle_for=timedelta(0)) == []
    delivery.publish(people(320), day=DAY + timedelta(days=1))
    delivery.upload(day=DAY + timedelta(days=1))
    assert delivery.sandbox.members() == keys([*CROWD[:3], *CROWD[4:], *people(20, start=300)])


def test_a_newer_removal_includes_the_parked_people(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.upload()
    require(delivery, 300)
    remove(delivery, leaving(emails=[CROWD[3][0]]))
    require(delivery, 1)

    summary = remove(delivery, leaving(emails=[CROWD[5][0]]))

    assert summary.parked_people == 0
    assert delivery.sandbox.members() == keys([*CROWD[:3], CROWD[4], *CROWD[6:]])
    assert summary.people_in_audience == 298


def test_two_parked_removals_are_one(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.upload()
    require(delivery, 300)
    remove(delivery, leaving(emails=[CROWD[3][0]]))

    assert remove(delivery, leaving(emails=[CROWD[5][0]])).parked_people == 2
    require(delivery, 1)
    remove(delivery, leaving(emails=["stranger@example.com"]))
    assert delivery.sandbox.members() == keys([*CROWD[:3], CROWD[4], *CROWD[6:]])


def test_a_received_session_without_a_subscriber_is_counted(delivery: SandboxDelivery) -> None:
    delivery.publish(CROWD)
    delivery.upload(batch_size=100)
    assert delivery.delivered().subscribers == 300
