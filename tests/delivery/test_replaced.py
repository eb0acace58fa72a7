"""Members whose phone has another hash under newer rules."""

from datetime import timedelta

import pytest

from tests.delivery.sandbox_delivery import DAY, SandboxDelivery, keys, people

TOMORROW = DAY + timedelta(days=1)


def german(count: int, prefix: str) -> list[tuple[str, str]]:
    """People with an e-mail in every other row, and a phone of digits."""
    return [
        (f"user{number}@example.com" if number % 2 else "", f"{prefix}15112{number:06}")
        for number in range(count)
    ]


@pytest.mark.parametrize("mode", ["append", "mirror"])
def test_people_whose_hash_changes_are_replaced_once(delivery: SandboxDelivery, mode: str) -> None:
    delivery.publish([*people(400), *german(300, "4949")])
    delivery.upload(mode=mode)
    now = [*people(400), *german(300, "49")]
    former = {400 + number: phone for number, (_, phone) in enumerate(german(300, "4949"))}
    delivery.publish(now, day=TOMORROW, former_phones=former)

    # 43 % of the members change, which is more than removal_share allows.
    summary = delivery.upload(mode=mode, day=TOMORROW)

    assert (summary.replaced_people, summary.removed_people, summary.new_people) == (300, 0, 300)
    assert delivery.sandbox.members() == keys(now)
    again = delivery.publish([*now, ("one@example.com", "")], day=TOMORROW, former_phones=former)
    assert again.rows == 701
    summary = delivery.upload(mode=mode, day=TOMORROW)
    assert (summary.replaced_people, summary.removed_people, summary.new_people) == (0, 0, 1)


def test_a_person_who_has_the_other_number_is_not_replaced(delivery: SandboxDelivery) -> None:
    owner = ("", "494915112000000")
    delivery.publish([*people(200), owner])
    delivery.upload()
    now = [*people(200), owner, ("", "4915112000000")]
    delivery.publish(now, day=TOMORROW, former_phones={201: "494915112000000"})

    summary = delivery.upload(day=TOMORROW)

    assert (summary.replaced_people, summary.new_people) == (0, 1)
    assert delivery.sandbox.members() == keys(now)


def test_a_small_audience_gets_the_new_hashes_before_the_old_ones_are_removed(
    delivery: SandboxDelivery,
) -> None:
    delivery.publish(german(120, "4949"))
    delivery.upload()
    former = {number: phone for number, (_, phone) in enumerate(german(120, "4949"))}
    delivery.publish(german(120, "49"), day=TOMORROW, former_phones=former)

    summary = delivery.upload(day=TOMORROW)

    assert (summary.replaced_people, summary.new_people) == (120, 120)
    assert delivery.sandbox.members() == keys(german(120, "49"))
