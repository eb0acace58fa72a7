"""The Custom Audiences that Meta lists, compared with our records."""

import dagster as dg

from mm_pipelines.delivery.audit import Difference, ListedAudience, list_ad_account
from mm_pipelines.naming import KEY_PREFIX, asset_key
from mm_pipelines.orchestration.failures import translate_errors
from mm_pipelines.orchestration.long_waits import defer_long_waits, deferral_metadata
from mm_pipelines.partitions import CONFIG
from mm_pipelines.resources.database import DatabaseResource
from mm_pipelines.resources.graph_api import GraphApiResource

_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("ad_account_id", "text"),
        dg.TableColumn("custom_audience_id", "text"),
        dg.TableColumn("audience", "text", description="The key in mm.yaml, empty if not ours"),
        dg.TableColumn("name", "text", description="At Meta"),
        dg.TableColumn("page_id", "text", description="At Meta"),
        dg.TableColumn("operation_status", "integer", description="200 is normal, 471 flagged"),
        dg.TableColumn("delivery_status", "integer", description="200 is ready, 300 too small"),
        dg.TableColumn("lower_bound", "bigint", description="Of the people in it"),
        dg.TableColumn("upper_bound", "bigint", description="Of the people in it"),
        dg.TableColumn("differences", "text[]", description="How it differs from our records"),
    ]
)


@dg.asset(
    key_prefix=KEY_PREFIX,
    group_name="delivery",
    owners=["team:audience"],
    kinds={"meta", "postgres"},
    check_specs=[
        dg.AssetCheckSpec(
            "as_we_know_them",
            asset=asset_key("audiences_at_meta"),
            description="Meta lists exactly the audiences that we deliver to, as mm.yaml describes "
            "them, and none is flagged.",
        )
    ],
    metadata={"dagster/table_name": "mm.audience_at_meta", "dagster/column_schema": _COLUMNS},
)
@translate_errors
def audiences_at_meta(
    context: dg.AssetExecutionContext, mm_database: DatabaseResource, mm_graph_api: GraphApiResource
) -> dg.MaterializeResult:
    """Lists the Messenger audiences of every ad account at Meta and compares them with ours."""
    listed: list[ListedAudience] = []
    differences: list[Difference] = []
    with defer_long_waits(context, mm_database.get()) as attempt:
        for ad_account_id, audiences in _by_ad_account().items():
            throttle = mm_graph_api.throttle_for_audience(audiences[0], mm_database.get())
            names = {audience: CONFIG.audiences[audience].name for audience in audiences}
            with mm_graph_api.client_for_audience(audiences[0], throttle) as client:
                rows, found = list_ad_account(mm_database.get(), client, ad_account_id, names)
            listed += rows
            differences += found
    return dg.MaterializeResult(
        metadata={
            **deferral_metadata(attempt.deferral),
            "dagster/row_count": len(listed),
            "audiences": _table(listed),
            "differences": len(differences),
        },
        check_results=[_as_we_know_them(differences)],
    )


def _by_ad_account() -> dict[str, list[str]]:
    accounts: dict[str, list[str]] = {}
    for audience, configured in CONFIG.audiences.items():
        accounts.setdefault(configured.ad_account_id, []).append(audience)
    return accounts


def _table(listed: list[ListedAudience]) -> dg.TableMetadataValue:
    columns = ("name", "audience", "lower_bound", "upper_bound", "operation_status", "differences")
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "name": row.name or "",
                    "audience": row.audience or "",
                    "lower_bound": -1 if row.lower_bound is None else row.lower_bound,
                    "upper_bound": -1 if row.upper_bound is None else row.upper_bound,
                    "operation_status": row.operation_status or 0,
                    "differences": ", ".join(row.differences),
                }
            )
            for row in listed
        ],
        dg.TableSchema([column for column in _COLUMNS.columns if column.name in columns]),
    )


def _as_we_know_them(differences: list[Difference]) -> dg.AssetCheckResult:
    sentences = "\n".join(f"- {difference}" for difference in differences)
    return dg.AssetCheckResult(
        check_name="as_we_know_them",
        passed=not differences,
        severity=dg.AssetCheckSeverity.WARN,
        description=sentences or "Every audience at Meta matches our records.",
        metadata={"differences": len(differences)},
    )
