"""Freshness and access tokens as Dagster shows them."""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import uvicorn
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mm_pipelines import health
from mm_pipelines.assets.access_tokens import access_tokens
from mm_pipelines.assets.freshness import audience_is_fresh, read_freshness
from mm_pipelines.partitions import AUDIENCE
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource
from mm_pipelines.sensors import freshness_sensor
from mm_pipelines.warehouse.database import Database
from tests.servers import serving

DAY_SECONDS = 86_400


class Ticks:
    """The ticks of the freshness sensor, each with the cursor of the one before."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cursor: str | None = None

    def reported(self) -> dict[str | None, bool]:
        """The outcomes that one more tick reports, by partition."""
        resources = {"mm_database": DatabaseResource(url=self._database.url)}
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_sensor_context(
                instance=instance, cursor=self._cursor, resources=resources
            ) as context,
        ):
            result = freshness_sensor(context)
        assert isinstance(result, dg.SensorResult)
        self._cursor = result.cursor
        evaluations = [e for e in result.asset_events if isinstance(e, dg.AssetCheckEvaluation)]
        return {evaluation.partition: evaluation.passed for evaluation in evaluations}


def age(database: Database, key: str) -> None:
    """The audience or Page has been watched for 40 hours without data."""
    with database.transaction() as connection:
        connection.execute(
            text(
                "update mm.freshness set configured_at = now() - interval '40 hours' "
                "where key = :key"
            ),
            {"key": key},
        )


def test_each_outcome_is_reported_once_and_again_when_it_changes(database: Database) -> None:
    ticks = Ticks(database)
    everything = {"acme", "globex", "acme_newsletter", "acme_loyalty", "globex_customers"}
    assert ticks.reported() == dict.fromkeys(everything, True)
    assert ticks.reported() == {}
    age(database, "acme_loyalty")
    assert ticks.reported() == {"acme_loyalty": False}
    assert ticks.reported() == {}


def test_an_alert_is_sent_once_when_an_audience_becomes_stale(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Any] = []

    async def hook(request: Request) -> JSONResponse:
        received.append(await request.json())
        return JSONResponse({})

    app = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
    ticks = Ticks(database)
    with serving(uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))) as url:
        monkeypatch.setenv("MM_ALERT_WEBHOOK_URL", f"{url}/hook")
        ticks.reported()
        age(database, "acme_loyalty")
        ticks.reported()
        ticks.reported()
    ((alert,),) = (body["alerts"] for body in received)
    assert alert["subject"] == "custom_audience:fresh"
    assert alert["partitions"] == ["acme_loyalty"]
    assert "mm.yaml expects one within 36 hours" in alert["message"]


def test_the_check_of_one_audience_does_not_hide_that_of_another(database: Database) -> None:
    read_freshness(database)
    age(database, "acme_loyalty")

    @dg.asset(name="custom_audience", partitions_def=AUDIENCE)
    def found_again() -> None:
        """Without a call to Meta."""

    run = dg.Definitions(
        assets=[found_again],
        asset_checks=[audience_is_fresh],
        resources={"mm_database": DatabaseResource(url=database.url)},
    ).resolve_implicit_global_asset_job_def()
    passed = {}
    for audience in ("acme_loyalty", "acme_newsletter"):
        result = run.execute_in_process(partition_key=audience)
        (evaluation,) = result.get_asset_check_evaluations()
        passed[evaluation.partition] = evaluation.passed
    assert passed == {"acme_loyalty": False, "acme_newsletter": True}


def meta(request: Request) -> JSONResponse:
    """Answers debug_token by the token's name."""
    token = request.query_params["input_token"]
    data: dict[str, Any] = {
        "is_valid": token != "dead",
        "type": "PAGE",
        "expires_at": 0,
        "data_access_expires_at": int(time.time()) + 13 * DAY_SECONDS if token == "soon" else 0,
        "scopes": ["ads_management", "pages_messaging", "pages_manage_metadata"],
    }
    if token == "dead":
        data["error"] = {"code": 190, "message": "The session was invalidated"}
    return JSONResponse({"data": data})


@pytest.fixture
def graph_api() -> Iterator[GraphApiResource]:
    app = Starlette(routes=[Route("/v26.0/debug_token", meta)])
    config = uvicorn.Config(app, port=0, log_config=None, ws="none")
    with serving(uvicorn.Server(config)) as url:
        yield GraphApiResource(base_url=url, version="v26.0")


def test_every_access_token_is_checked_and_kept_without_its_value(
    database: Database, graph_api: GraphApiResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MM_SYSTEM_USER_TOKEN", "good")
    monkeypatch.setenv("ACME_PAGE_TOKEN", "soon")
    monkeypatch.setenv("GLOBEX_PAGE_TOKEN", "dead")
    resources = {"mm_database": DatabaseResource(url=database.url), "mm_graph_api": graph_api}
    (check,) = dg.materialize([access_tokens], resources=resources).get_asset_check_evaluations()
    assert not check.passed
    assert check.description is not None
    assert "ACME_PAGE_TOKEN expires at" in check.description
    assert "GLOBEX_PAGE_TOKEN is not valid (The session was invalidated)" in check.description
    assert "MM_SYSTEM_USER_TOKEN" not in check.description
    with database.transaction() as connection:
        found = {(item.item, item.subject) for item in health.read(connection)}
        kept = str(connection.execute(text("select * from mm.access_token")).all())
    assert found == {("expiring_token", "ACME_PAGE_TOKEN"), ("invalid_token", "GLOBEX_PAGE_TOKEN")}
    assert "soon" not in kept
