"""What Meta lists is held against what we know, and each difference named."""

import httpx

from mm_pipelines.delivery.audit import Difference, list_ad_account
from tests.delivery.sandbox_delivery import SPEC, TOKEN, SandboxDelivery, people


def differences(delivery: SandboxDelivery, name: str = SPEC.name) -> list[Difference]:
    with delivery.client() as client:
        _, found = list_ad_account(
            delivery.database, client, SPEC.ad_account_id, {SPEC.audience: name}
        )
    return found


def graph(delivery: SandboxDelivery, method: str, path: str, **body: object) -> None:
    """Another system changes the ad account."""
    answer = httpx.request(
        method,
        f"{delivery.sandbox.url}/v26.0/{path}",
        json=body or None,
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    answer.raise_for_status()


def uploaded(delivery: SandboxDelivery) -> None:
    delivery.publish(people(150))
    delivery.upload()


def test_an_audience_that_is_as_we_know_it_shows_no_difference(delivery: SandboxDelivery) -> None:
    uploaded(delivery)
    assert differences(delivery) == []


def test_a_deleted_audience_is_missing(delivery: SandboxDelivery) -> None:
    uploaded(delivery)
    graph(delivery, "DELETE", delivery.sandbox.audience_id())
    assert [difference.kind for difference in differences(delivery)] == ["missing"]


def test_an_audience_made_by_others_is_foreign(delivery: SandboxDelivery) -> None:
    uploaded(delivery)
    graph(
        delivery,
        "POST",
        f"act_{SPEC.ad_account_id}/customaudiences",
        name="By hand",
        description="Made by hand",
        subtype="CUSTOM",
        customer_file_source="USER_PROVIDED_ONLY",
        use_for_products=["MARKETING_MESSAGES"],
        subscription_info=["MESSENGER"],
        marketing_message_channels={"MESSENGER": SPEC.page_id},
    )
    (found,) = differences(delivery)
    assert (found.kind, found.name, found.audience) == ("foreign", "By hand", None)


def test_another_name_in_the_configuration_is_a_difference(delivery: SandboxDelivery) -> None:
    uploaded(delivery)
    assert [found.kind for found in differences(delivery, name="New name")] == ["renamed"]


def test_an_integrity_flag_is_a_difference_that_says_what_to_do(delivery: SandboxDelivery) -> None:
    uploaded(delivery)
    delivery.sandbox.post(f"audiences/{delivery.sandbox.audience_id()}/status", code=471)
    (found,) = differences(delivery)
    assert found.kind == "flagged"
    assert "appeal" in str(found)
