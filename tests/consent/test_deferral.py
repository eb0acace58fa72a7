"""Opt-outs and opt-in requests that Meta throttles are deferred; new opt-outs never are."""

import json

import dagster as dg
import httpx
from sqlalchemy import text

from mm_pipelines.assets.optin_requests import optin_requests
from mm_pipelines.assets.unsubscribes import unsubscribes
from mm_pipelines.orchestration import deferrals
from mm_pipelines.orchestration.deferrals import Deferral
from mm_pipelines.sensors import deferred_work_sensor, optin_sensor, unsubscribe_sensor
from tests.consent.page import PAGE_ID, Page
from tests.consent.test_assets import PARTITION, Run, asked_for, failed_checks, instance, run, tick

__all__ = ["instance", "run"]

USAGE = {
    "type": "pages",
    "call_count": 100,
    "total_cputime": 1,
    "total_time": 1,
    "estimated_time_to_regain_access": 60,
}


def throttle(page: Page) -> None:
    """Meta refuses every call that writes, for an hour."""
    fault = {
        "method": "POST",
        "times": None,
        "error": {"code": 32, "message": "Page request limit reached", "status": 400},
        "headers": {"X-Business-Use-Case-Usage": json.dumps({PAGE_ID: [USAGE]})},
    }
    httpx.post(f"{page.url}/_sandbox/faults", json=fault).raise_for_status()


def ends(page: Page) -> None:
    """The hour is over."""
    httpx.delete(f"{page.url}/_sandbox/faults").raise_for_status()
    with page.database.transaction() as connection:
        connection.execute(text("update mm.deferred_work set due_at = now()"))
        connection.execute(text("delete from mm.throttle"))


def deferred(page: Page) -> list[Deferral]:
    with page.database.transaction() as connection:
        return deferrals.pending(connection)


def test_a_throttled_opt_out_is_deferred_and_carried_out_when_due(
    page: Page, instance: dg.DagsterInstance, run: Run
) -> None:
    page.request("table", email="mary@example.com")
    throttle(page)
    result = run(unsubscribes, PARTITION)
    assert result.success
    assert failed_checks(result) == {"all_opt_outs_done"}
    (materialized,) = result.asset_materializations_for_node("unsubscribes")
    assert {"deferred_until", "newly_suppressed"} <= materialized.metadata.keys()
    assert asked_for(page, instance, unsubscribe_sensor) == set()
    assert asked_for(page, instance, deferred_work_sensor) == set()
    assert "is deferred until" in str(tick(page, instance, unsubscribe_sensor).skip_reason)
    ends(page)
    assert asked_for(page, instance, deferred_work_sensor) == {("unsubscribes", PARTITION)}
    result = run(unsubscribes, PARTITION)
    assert failed_checks(result) == set()
    assert deferred(page) == []


def test_a_new_opt_out_is_suppressed_at_once_while_the_page_is_throttled(
    page: Page, instance: dg.DagsterInstance, run: Run
) -> None:
    page.request("table", email="mary@example.com")
    throttle(page)
    assert run(unsubscribes, PARTITION).success
    page.request("table", email="john@example.com")
    assert asked_for(page, instance, unsubscribe_sensor) == {("unsubscribes", PARTITION)}
    assert run(unsubscribes, PARTITION).success
    assert page.rows("select count(*) from mm.suppression") == [(2,)]
    assert asked_for(page, instance, unsubscribe_sensor) == set()


def test_throttled_opt_in_requests_are_deferred(
    page: Page, instance: dg.DagsterInstance, run: Run
) -> None:
    page.act("message")
    page.apply_webhooks()
    throttle(page)
    assert run(optin_requests, PARTITION).success
    page.act("message")
    page.apply_webhooks()
    assert asked_for(page, instance, optin_sensor) == set()
    ends(page)
    assert asked_for(page, instance, deferred_work_sensor) == {("optin_requests", PARTITION)}
    assert run(optin_requests, PARTITION).success
    assert deferred(page) == []
    assert page.rows("select count(*) from mm.optin_request where state = 'sent'") == [(2,)]
