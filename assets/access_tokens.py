"""The validity, expiry and permissions of every access token in mm.yaml."""

from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from mm_pipelines import health
from mm_pipelines.graph_api.access_tokens import PAGE_SCOPES, SYSTEM_USER_SCOPES
from mm_pipelines.health import AccessTokenState
from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.partitions import CONFIG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource

SOON: Final = timedelta(days=14)
"""How long before its expiry a token is reported."""

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("variable", "text", description="The environment variable of the token"),
        dg.TableColumn("is_valid", "boolean", description="False for a revoked or expired token"),
        dg.TableColumn("error", "text", description="Why it is not valid"),
        dg.TableColumn("expires_at", "timestamptz", description="Empty: never"),
        dg.TableColumn("missing_permissions", "text[]", description="That our calls need"),
        dg.TableColumn("checked_at", "timestamptz"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    group_name="delivery",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    check_specs=[
        dg.AssetCheckSpec(
            "usable_for_two_weeks",
            asset=asset_key("access_tokens"),
            description="Every access token of mm.yaml is valid for at least 14 days and has the "
            "permissions that our calls need.",
        )
    ],
    metadata={"dagster/table_name": "mm.access_token", "dagster/column_schema": _COLUMNS},
)
@translate_errors
def access_tokens(
    context: dg.AssetExecutionContext,  # noqa: ARG001 - the decorator needs it
    mm_database: DatabaseResource,
    mm_graph_api: GraphApiResource,
) -> dg.MaterializeResult:
    """Asks Meta about every access token in mm.yaml. The tokens themselves are not stored."""
    states = [
        _state(mm_graph_api, variable, permissions)
        for variable, permissions in _variables().items()
    ]
    with mm_database.get().transaction() as connection:
        health.record_access_tokens(connection, states)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": len(states)}, check_results=[_check(states)]
    )


def _state(
    graph_api: GraphApiResource, variable: str, permissions: frozenset[str]
) -> AccessTokenState:
    info = graph_api.token_info(variable)
    return AccessTokenState(
        variable=variable,
        is_valid=info.is_valid,
        error=info.error,
        expires_at=info.ends_at,
        missing_permissions=tuple(sorted(permissions - info.scopes)),
    )


def _variables() -> dict[str, frozenset[str]]:
    """The variables of mm.yaml, each with the permissions that its token needs."""
    needed: dict[str, frozenset[str]] = {}
    for audience in CONFIG.audiences.values():
        name = audience.system_user_token_env
        needed[name] = needed.get(name, frozenset()) | SYSTEM_USER_SCOPES
    for page in CONFIG.pages.values():
        name = page.access_token_env
        needed[name] = needed.get(name, frozenset()) | PAGE_SCOPES
    return needed


def _check(states: list[AccessTokenState]) -> dg.AssetCheckResult:
    faults = [fault for state in states if (fault := _fault(state))]
    return dg.AssetCheckResult(
        check_name="usable_for_two_weeks",
        passed=not faults,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(faults)
        or "Every token is valid for two weeks and has its permissions.",
        metadata={"tokens": len(states), "faults": len(faults)},
    )


def _fault(state: AccessTokenState) -> str | None:
    rotate = "Rotate it (docs/operations.md#rotating-secrets)."
    if not state.is_valid:
        return f"{state.variable} is not valid ({state.error or 'no reason given'}). {rotate}"
    if state.missing_permissions:
        missing = ", ".join(state.missing_permissions)
        return f"{state.variable} lacks {missing}. Grant it and create a new token."
    if state.expires_at and state.expires_at < datetime.now(UTC) + SOON:
        return f"{state.variable} expires at {state.expires_at:%Y-%m-%d %H:%M} UTC. {rotate}"
    return None
