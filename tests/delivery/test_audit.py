"""What Meta lists is held against what we know, and each difference named."""

import httpx

from mm_pipelines.delivery.audit import Difference, list_ad_account
from tests.delivery.desk import SPEC, TOKEN, Desk, people


def differences(desk: Desk, name: str = SPEC.name) -> list[Difference]:
    with desk.client() as client:
        _, found = list_ad_account(desk.database, client, SPEC.ad_account_id, {SPEC.audience: name})
    return found


def graph(desk: Desk, method: str, path: str, **body: object) -> None:
    """Somebody else at work on the ad account."""
    answer = httpx.request(
        method,
        f"{desk.sandbox.url}/v26.0/{path}",
        json=body or None,
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    answer.raise_for_status()


def uploaded(desk: Desk) -> None:
    desk.publish(people(150))
    desk.upload()


def test_an_audience_that_is_as_we_know_it_shows_no_difference(desk: Desk) -> None:
    uploaded(desk)
    assert differences(desk) == []


def test_a_deleted_audience_is_missing(desk: Desk) -> None:
    uploaded(desk)
    graph(desk, "DELETE", desk.sandbox.audience_id())
    assert [difference.kind for difference in differences(desk)] == ["missing"]


def test_an_audience_made_by_others_is_foreign(desk: Desk) -> None:
    uploaded(desk)
    graph(
        desk,
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
    (found,) = differences(desk)
    assert (found.kind, found.name, found.audience) == ("foreign", "By hand", None)


def test_another_name_in_the_configuration_is_a_difference(desk: Desk) -> None:
    uploaded(desk)
    assert [found.kind for found in differences(desk, name="New name")] == ["renamed"]


def test_an_integrity_flag_is_a_difference_that_says_what_to_do(desk: Desk) -> None:
    uploaded(desk)
    desk.sandbox.post(f"audiences/{desk.sandbox.audience_id()}/status", code=471)
    (found,) = differences(desk)
    assert found.kind == "flagged"
    assert "appeal" in str(found)
