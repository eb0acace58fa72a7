"""Meta's own Python SDK as the client: it must find everything where it expects it."""

import pytest

from tests.sandbox import meta
from tests.sandbox.meta import Meta, people

pytest.importorskip("facebook_business")

from facebook_business.adobjects.adaccount import AdAccount
from facebook_business.adobjects.customaudience import CustomAudience
from facebook_business.adobjects.page import Page
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession


@pytest.fixture
def sdk(sandbox: Meta) -> Meta:
    """The sandbox in the shape the SDK reads; sessions made by `api` go there."""
    sandbox.control("POST", "variants", create_shape="top_level")
    return sandbox


def api(sandbox: Meta, token: str) -> FacebookAdsApi:
    class Session(FacebookSession):  # type: ignore[misc] # the SDK has no types
        GRAPH = sandbox.url

    return FacebookAdsApi(Session(meta.APP_ID, meta.APP_SECRET, token))


# The SDK reads the receipt as an audience, whose field of that name is a list.
@pytest.mark.filterwarnings("ignore:Value of subscription_info:UserWarning")
def test_the_sdk_creates_lists_fills_and_empties_an_audience(sdk: Meta) -> None:
    account = AdAccount(f"act_{meta.ACCOUNT}", api=api(sdk, meta.SYSTEM_TOKEN))
    audience = account.create_custom_audience(params=meta.creation("From the SDK"))
    payload = {"schema": meta.SCHEMA, "data": people(200)}
    session = {"session_id": 5, "batch_seq": 1, "last_batch_flag": True}
    receipt = audience.create_user(params={"payload": payload, "session": session})
    audience.delete_users(params={"payload": {"schema": meta.SCHEMA, "data": people(20)}})
    cursor = account.get_custom_audiences(
        fields=["id", "name", "messenger_marketing_messages_page"],
        params={"filtering": [{"field": "data_source.subtype", "operator": "IN", "value": [1010]}]},
    )

    assert receipt["num_received"] == 200
    assert len(sdk.members(audience["id"])) == 180
    (node,) = list(cursor)
    assert node["name"] == "From the SDK"
    assert node["messenger_marketing_messages_page"]["id"] == meta.PAGE
    assert CustomAudience(audience["id"], api=account.get_api()).api_get(
        fields=["name", "operation_status"]
    )["name"] == ("From the SDK")


def test_the_sdk_pages_through_the_tokens(sdk: Meta) -> None:
    page = Page(meta.PAGE, api=api(sdk, meta.PAGE_TOKEN))
    tokens = page.get_notification_message_tokens(params={"limit": 10})

    assert len({token["notification_messages_token"] for token in tokens}) == 45


def test_the_sdk_reads_the_errors(sdk: Meta) -> None:
    page = Page(meta.PAGE, api=api(sdk, "nobody's"))
    with pytest.raises(FacebookRequestError) as caught:
        page.get_notification_message_tokens()

    assert caught.value.api_error_code() == 190
