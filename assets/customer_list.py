"""A day's list as it lies, validated in place."""

import dagster as dg

from mm_pipelines.graph_api.custom_audiences import MATCH_FLOOR
from mm_pipelines.graph_api.redaction import redact
from mm_pipelines.lists import ListError, ListReport, inspect_list
from mm_pipelines.partitions import AUDIENCE_BY_DAY, CONFIG, AudienceDay
from mm_pipelines.storage import without_credentials


@dg.asset(
    partitions_def=AUDIENCE_BY_DAY,
    group_name="lists",
    owners=["team:audience"],
    kinds={"file"},
    check_specs=[
        dg.AssetCheckSpec(
            "enough_people",
            asset="customer_list",
            description=f"At least {MATCH_FLOOR} rows have an e-mail address or phone number.",
        )
    ],
)
def customer_list(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The day's customer list, validated where it lies; it is never copied.

    Its data version is the fingerprint of its bytes, so that `hashed_payload` can tell whether it
    hashes what was validated here.
    """
    partition = AudienceDay.of(context)
    source = CONFIG.audiences[partition.audience].source
    try:
        report = inspect_list(partition.list_url, source.columns, encoding=source.encoding)
    except ListError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.fingerprint),
        metadata=_metadata(report),
        check_results=[_enough_people(report)],
    )


def _metadata(report: ListReport) -> dict[str, dg.MetadataValue]:
    recognised = [
        f"| {key} | {', '.join(headers)} | {report.share(key):.1%} |"
        for key, headers in report.columns.items()
    ]
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(report.rows),
        "dagster/uri": dg.MetadataValue.path(without_credentials(report.url)),
        "fingerprint": dg.MetadataValue.text(report.fingerprint),
        "bytes": dg.MetadataValue.int(report.size or 0),
        "format": dg.MetadataValue.text(_format(report)),
        "rows_with_identifier": dg.MetadataValue.int(report.rows_with_identifier),
        "columns": dg.MetadataValue.md(
            "\n".join(["| key | header | filled |", "|---|---|---|", *recognised])
        ),
        "columns_with_alternatives": dg.MetadataValue.md(_alternatives(report)),
        # A pivoted list may have personal values among its column names.
        "columns_not_read": dg.MetadataValue.text(
            ", ".join(redact(name) for name in report.unrecognised) or "none"
        ),
    }
    metadata |= {
        f"share_with_{key}": dg.MetadataValue.float(report.share(key)) for key in report.columns
    }
    return metadata


def _alternatives(report: ListReport) -> str:
    rules = [
        f"- {key}: `{first}`; where it is blank, `{'`, then `'.join(others)}`"
        for key, (first, *others) in report.alternatives.items()
    ]
    return "\n".join(rules) or "none"


def _format(report: ListReport) -> str:
    facts = [report.format, "gzip" if report.gzipped else None, report.encoding]
    if report.delimiter is not None:
        facts.append(f"delimiter {report.delimiter!r}")
    return ", ".join(fact for fact in facts if fact)


def _enough_people(report: ListReport) -> dg.AssetCheckResult:
    enough = report.rows_with_identifier >= MATCH_FLOOR
    return dg.AssetCheckResult(
        check_name="enough_people",
        passed=enough,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{report.rows_with_identifier:,} rows can be matched."
        if enough
        else f"Only {report.rows_with_identifier:,} rows have an e-mail address or phone number; "
        f"with fewer than {MATCH_FLOOR} matched people in the audience Meta gives no tokens. "
        "Send a longer list, or join small audiences.",
        metadata={"rows_with_identifier": report.rows_with_identifier},
    )
