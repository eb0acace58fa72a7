"""The Dagster UI as a person sees it, in Debian's Chromium."""

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.chromium import chromium
from tests.e2e.installation import Installation
from tests.e2e.running_stack import RunningStack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture
def stack(installation: Installation, ports: list[str]) -> Iterator[RunningStack]:
    stack = RunningStack(installation, ports)
    yield stack
    stack.stop()


@pytest.fixture
def page(stack: RunningStack) -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_page(
            base_url=f"http://127.0.0.1:{stack.ports['--port']}",
            viewport={"width": 1600, "height": 1000},
        )
        page.set_default_timeout(60_000)
        yield page


def test_a_user_sees_the_graph_and_uploads_one_day_in_the_ui(
    stack: RunningStack, page: Page
) -> None:
    page.goto("/asset-groups")
    for group in ("lists", "delivery", "status", "tokens", "people"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()

    page.goto("/automation")
    for name in ("upload_status_sensor", "customer_list_sensor", "daily_upload", "token_refresh"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()

    page.goto("/assets/customer_list")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_placeholder("ex: 2026-11-18").fill("2026-11-20")
    dialog.get_by_role("button", name="All").first.click()
    dialog.get_by_role("button", name="Launch").click()
    # Leaving the page earlier would cancel the launch.
    expect(page.get_by_text("Created backfill")).to_be_visible()

    # The page does not refresh itself.
    give_up = time.monotonic() + 180
    metadata = page.get_by_text("rows_with_identifier")
    while not metadata.is_visible():
        assert time.monotonic() < give_up
        page.goto("/assets/customer_list?partition=acme_newsletter%7C2026-11-20&view=partitions")
        page.wait_for_timeout(5_000)
