"""The counted days of a Page as a table."""

from collections.abc import Sequence

from mm_pipelines.report.growth import Growth

COLUMNS = {
    "list rows": "list_rows",
    "valid people": "valid",
    "new, delivered": "delivered",
    "processed": "processed",
    "matched so far": "matched",
    "tokens": "tokens",
    "sendable": "sendable",
    "asked": "asked",
    "opted in": "opted_in",
    "opted out": "left_page",
}
"""The attributes of a day by their headings."""

UNKNOWN = "?"
"""What the table shows for a number that is not known."""


def cells(growth: Growth) -> list[str]:
    """A day's numbers as text, in the order of `COLUMNS`."""
    values = [getattr(growth, name) for name in COLUMNS.values()]
    return [UNKNOWN if value is None else f"{value:,}" for value in values]


def as_markdown(days: Sequence[Growth]) -> str:
    """The days as a Markdown table, the newest first."""
    lines = ["| day | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    lines += [f"| {growth.day} | " + " | ".join(cells(growth)) + " |" for growth in reversed(days)]
    return "\n".join(lines)


def payloads_as_markdown(growth: Growth) -> str:
    """A day's opt-in requests by their payload, as a Markdown table."""
    lines = ["| payload | asked | opted in |", "|---|---:|---:|"]
    lines += [
        f"| {payload or UNKNOWN} | {counts['asked']:,} | {counts['opted_in']:,} |"
        for payload, counts in sorted(growth.opt_ins_by_payload.items())
    ]
    return "\n".join(lines)
