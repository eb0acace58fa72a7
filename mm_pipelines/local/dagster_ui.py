"""A client of Dagster's webserver, over the GraphQL that its UI uses; for `mm up` and the demo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from mm_pipelines.local.errors import LocalError

# Dagster's own name for what a code location defines.
_REPOSITORY = "__repository__"

_LOCATIONS = """
query { workspaceOrError { __typename ... on PythonError { message }
  ... on Workspace { locationEntries { name loadStatus
    locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""

_LAUNCH_BACKFILL = """
mutation Launch($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId }
  ... on PythonError { message } ... on UnauthorizedError { message }
  ... on PartitionSetNotFoundError { message } ... on PartitionKeysNotFoundError { message } } }
"""

_BACKFILL = """
query Backfill($id: String!) { partitionBackfillOrError(backfillId: $id) {
  __typename ... on PythonError { message } ... on BackfillNotFoundError { message }
  ... on PartitionBackfill { status error { message }
    partitionStatusCounts { runStatus count } } } }
"""

_RUNS = """
query Runs($filter: RunsFilter, $limit: Int) { runsOrError(filter: $filter, limit: $limit) {
  __typename ... on PythonError { message } ... on InvalidPipelineRunsFilterError { message }
  ... on Runs { results { runId status tags { key value } } } } }
"""

_START_SENSOR = """
mutation Start($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on PythonError { message } ... on SensorNotFoundError { message } } }
"""

_MATERIALIZED = """
query Materialized($asset: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $asset) {
    __typename ... on AssetNotFoundError { message }
    ... on AssetNode { assetMaterializations(partitions: $partitions) {
      partition metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }
"""

_FAILURES = """
query Failures($id: ID!) { runOrError(runId: $id) {
  __typename ... on PythonError { message } ... on RunNotFoundError { message }
  ... on Run { eventConnection { events { __typename
    ... on ExecutionStepFailureEvent { stepKey error { message errorChain { error { message } } } }
    ... on RunFailureEvent { message } } } } } }
"""

_UNFINISHED = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]


class DagsterUiError(LocalError):
    """Dagster's webserver reported an error; the message is its own."""


@dataclass(frozen=True)
class Backfill:
    """The state of a backfill: Dagster's status, and how many partitions have which run status."""

    status: str
    partitions: Mapping[str, int]
    error: str | None


@dataclass(frozen=True)
class Run:
    """One of Dagster's runs, with its partition."""

    run_id: str
    status: str
    partition: str | None


class DagsterUi:
    """A client of the webserver at `url`, for one code location.

    Every method raises `DagsterUiError` for an error that Dagster reports, and `httpx.HTTPError`
    where the webserver does not answer.
    """

    def __init__(self, url: str, location: str) -> None:
        self._location = location
        self._http = httpx.Client(base_url=url, timeout=30)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def is_loaded(self) -> bool:
        """Whether the code location has loaded.

        Raises:
            DagsterUiError: It cannot be loaded.
        """
        workspace = self._query(_LOCATIONS, "workspaceOrError")
        for entry in workspace["locationEntries"]:
            if entry["name"] == self._location and entry["loadStatus"] == "LOADED":
                _raise_if_error(entry["locationOrLoadError"] or {})
                return True
        return False

    def launch_backfill(self, job: str, partitions: Sequence[str]) -> str:
        """Submit a backfill of a partitioned job and return its id; the daemon starts the runs."""
        answer = self._query(
            _LAUNCH_BACKFILL,
            "launchPartitionBackfill",
            params={
                "selector": {
                    "partitionSetName": f"{job}_partition_set",
                    "repositorySelector": self._repository(),
                },
                "partitionNames": list(partitions),
            },
        )
        return str(answer["backfillId"])

    def backfill(self, backfill_id: str) -> Backfill:
        """The state of a backfill."""
        answer = self._query(_BACKFILL, "partitionBackfillOrError", id=backfill_id)
        counts = {entry["runStatus"]: entry["count"] for entry in answer["partitionStatusCounts"]}
        error = answer["error"]["message"] if answer["error"] else None
        return Backfill(status=answer["status"], partitions=counts, error=error)

    def unfinished_runs(self) -> list[Run]:
        """The runs that are queued or in progress."""
        return self._runs({"statuses": _UNFINISHED})

    def failed_runs(self, since: float) -> list[Run]:
        """The runs that failed after `since`, in seconds since 1970."""
        return self._runs({"statuses": ["FAILURE"], "updatedAfter": since})

    def why_failed(self, run_id: str) -> str:
        """The steps of a run that failed, each with its innermost error."""
        answer = self._query(_FAILURES, "runOrError", id=run_id)
        steps, run = [], "no reason was recorded"
        for event in answer["eventConnection"]["events"]:
            if event["__typename"] == "ExecutionStepFailureEvent":
                error = event["error"] or {"message": "no reason was recorded", "errorChain": []}
                innermost = [error, *(link["error"] for link in error["errorChain"])][-1]
                steps.append(f"{event['stepKey']}: {innermost['message'].strip()}")
            elif event["__typename"] == "RunFailureEvent":
                run = event["message"]
        return "; ".join(steps) or run

    def materialized(
        self, asset: Sequence[str], partitions: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        """The integers in the metadata of each partition's newest materialization."""
        answer = self._query(
            _MATERIALIZED,
            "assetNodeOrError",
            asset={"path": list(asset)},
            partitions=list(partitions),
        )
        newest: dict[str, dict[str, int]] = {}
        for event in answer["assetMaterializations"]:
            numbers = {
                entry["label"]: entry["intValue"]
                for entry in event["metadataEntries"]
                if entry.get("intValue") is not None
            }
            # Dagster returns the newest first.
            newest.setdefault(event["partition"], numbers)
        return newest

    def start_sensor(self, name: str) -> None:
        """Switch a sensor on, unless it is on already."""
        selector = {**self._repository(), "sensorName": name}
        self._query(_START_SENSOR, "startSensor", selector=selector)

    def _runs(self, where: Mapping[str, Any]) -> list[Run]:
        answer = self._query(_RUNS, "runsOrError", filter=where, limit=200)
        runs = []
        for result in answer["results"]:
            tags = {tag["key"]: tag["value"] for tag in result["tags"]}
            runs.append(Run(result["runId"], result["status"], tags.get("dagster/partition")))
        return runs

    def _repository(self) -> dict[str, str]:
        return {"repositoryName": _REPOSITORY, "repositoryLocationName": self._location}

    def _query(self, query: str, field: str, **variables: object) -> dict[str, Any]:
        answer = self._http.post("/graphql", json={"query": query, "variables": variables})
        content = answer.json()
        if content.get("errors"):
            raise DagsterUiError(content["errors"][0]["message"])
        result: dict[str, Any] = content["data"][field]
        _raise_if_error(result)
        return result


def _raise_if_error(result: Mapping[str, Any]) -> None:
    if "message" in result:
        raise DagsterUiError(str(result["message"]))
