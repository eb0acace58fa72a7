"""The assets about tokens, materialized against the sandbox."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import polars as pl
import pytest
from sqlalchemy import text

from mm_pipelines.assets.sendable_tokens import sendable_tokens
from mm_pipelines.assets.subscription_tokens import every_page_pulled, subscription_tokens
from mm_pipelines.assets.token_details import token_details
from mm_pipelines.assets.token_snapshot import token_snapshot
from mm_pipelines.orchestration import deferrals
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.resources.storage import StorageResource
from mm_pipelines.resources.suppression import SuppressionResource
from mm_pipelines.warehouse.database import Database
from tests.tokens.conftest import PEOPLE

_NEAR_EXPIRY = text("""
select count(*) from mm.subscription_token
where expires_at between now() and now() + interval '7 days'
""")


FULL = {
    "type": "pages_messaging",
    "call_count": 100,
    "total_cputime": 1,
    "total_time": 1,
    "estimated_time_to_regain_access": 60,
}


@pytest.fixture
def resources(
    database_url: str, sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setenv("ACME_PAGE_TOKEN", "page-token")
    return {
        "mm_database": DatabaseResource(url=database_url),
        "mm_graph_api": GraphApiResource(base_url=sandbox_url, version="v26.0"),
        "mm_storage": StorageResource(base_url=str(tmp_path)),
        "mm_suppression": SuppressionResource(key="suppression key of the tests"),
    }


def materialize(
    assets: list[Any], resources: dict[str, Any], partition: str = "acme", **config: Any
) -> dg.ExecuteInProcessResult:
    run_config = {"ops": {name: {"config": values} for name, values in config.items()}}
    return dg.materialize(
        assets,
        resources=resources,
        partition_key=partition,
        run_config=run_config,
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> Mapping[str, Any]:
    (materialization,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in materialization.metadata.items()}


def test_a_page_is_pulled_checked_and_counted(resources: dict[str, Any]) -> None:
    result = materialize([subscription_tokens, every_page_pulled], resources)
    assert result.success
    told = metadata(result, "subscription_tokens")
    assert told["dagster/row_count"] == told["live"] == told["growth"] > PEOPLE
    assert told["deduplicated"] == PEOPLE
    assert told["duplicates_removed"] == told["live"] - PEOPLE
    assert told["recipient_known"] + told["recipient_unknown"] == told["live"]
    assert 0 < told["share_sendable"] < 1
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["one_token_per_recipient"].passed
    assert checks["listing_not_shrunk"].passed
    # The other Page of the configuration was never pulled.
    assert not checks["every_page_pulled"].passed
    assert "globex" in (checks["every_page_pulled"].description or "")


def test_losses_beyond_the_share_fail_the_run_until_accepted(
    resources: dict[str, Any], database: Database
) -> None:
    materialize([subscription_tokens], resources)
    with database.transaction() as connection:
        connection.execute(
            text("""
                insert into mm.subscription_token
                    (page_id, token, source, first_seen_at, last_seen_at)
                select page_id, 'x' || token, source, first_seen_at, last_seen_at
                from mm.subscription_token
            """)
        )
    refused = materialize([subscription_tokens], resources)
    assert not refused.success
    assert "accept_losses" in str(refused.failure_data_for_node("subscription_tokens"))
    accepted = materialize(
        [subscription_tokens], resources, subscription_tokens={"accept_losses": True}
    )
    assert metadata(accepted, "subscription_tokens")["vanished"] > PEOPLE


def test_the_senders_file_is_named_by_its_manifest(
    resources: dict[str, Any], tmp_path: Path
) -> None:
    pulled = materialize([subscription_tokens], resources)
    written = metadata(materialize([sendable_tokens], resources), "sendable_tokens")
    assert written["dagster/row_count"] == metadata(pulled, "subscription_tokens")["sendable"]
    manifest = json.loads((tmp_path / "sendable_tokens/acme/latest.json").read_text())
    assert pl.read_parquet(tmp_path / manifest["path"]).height == manifest["rows"]
    assert manifest["rows"] == written["dagster/row_count"]


def test_todays_snapshot_counts_growth_and_what_is_sendable(resources: dict[str, Any]) -> None:
    pulled = metadata(materialize([subscription_tokens], resources), "subscription_tokens")
    today = datetime.now(UTC).date().isoformat()
    result = materialize([token_snapshot], resources, partition=f"{today}|acme")
    told = metadata(result, "token_snapshot")
    assert told["live"] == told["growth"] == pulled["live"]
    assert told["deduplicated"] == PEOPLE
    assert told["sendable"] == pulled["sendable"]


def test_details_are_asked_of_tokens_near_expiry_and_only_once_a_day(
    resources: dict[str, Any], database: Database
) -> None:
    materialize([subscription_tokens], resources)
    renewed = text("""
        update mm.subscription_token set expires_at = now() + interval '1 day'
        where token = (select min(token) from mm.subscription_token where expires_at is null)
    """)
    with database.transaction() as connection:
        before = connection.scalar(_NEAR_EXPIRY)
        connection.execute(renewed)
    asked = metadata(materialize([token_details], resources), "token_details")
    assert asked["dagster/row_count"] == before + 1
    # At Meta that token never expires, as the answer shows.
    assert asked["changed"] == 1
    again = metadata(materialize([token_details], resources), "token_details")
    assert again["dagster/row_count"] == 0


def test_a_throttled_pull_is_deferred_and_materializes_nothing(
    resources: dict[str, Any], sandbox_url: str, database: Database
) -> None:
    error = {"code": 2300080, "message": "too many calls", "status": 400}
    headers = {"X-Business-Use-Case-Usage": json.dumps({"134141414124123": [FULL]})}
    fault = {"path": "*/notification_message_tokens", "times": None, "error": error}
    httpx.post(f"{sandbox_url}/_sandbox/faults", json={**fault, "headers": headers})
    try:
        result = materialize([subscription_tokens], resources)
    finally:
        httpx.delete(f"{sandbox_url}/_sandbox/faults")
    assert result.success
    assert result.asset_materializations_for_node("subscription_tokens") == []
    with database.transaction() as connection:
        (deferral,) = deferrals.pending(connection)
    assert (deferral.asset, deferral.partition_key) == ("subscription_tokens", "acme")
    assert materialize([subscription_tokens], resources).success
    with database.transaction() as connection:
        assert deferrals.pending(connection) == []


def test_an_empty_answer_for_a_small_page_defers_the_pull(
    resources: dict[str, Any], sandbox_url: str, database: Database
) -> None:
    materialize([subscription_tokens], resources)
    with database.transaction() as connection:
        keep_few = """
            delete from mm.subscription_token
            where token not in (select token from mm.subscription_token order by token limit 5)
        """
        connection.execute(text(keep_few))
    fault = {"path": "*/notification_message_tokens", "times": None}
    variants = {"variants": {"empty_listing": True}}
    httpx.post(f"{sandbox_url}/_sandbox/faults", json={**fault, **variants}).raise_for_status()
    try:
        result = materialize([subscription_tokens], resources)
    finally:
        httpx.delete(f"{sandbox_url}/_sandbox/faults")
    assert result.success
    assert result.asset_materializations_for_node("subscription_tokens") == []
    with database.transaction() as connection:
        (deferral,) = deferrals.pending(connection)
        assert connection.scalar(text("select count(*) from mm.sendable_token"))
    wait = (deferral.due_at - deferral.deferred_at).total_seconds()
    assert wait == pytest.approx(300, abs=1)
