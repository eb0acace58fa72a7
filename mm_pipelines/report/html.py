"""The growth report as one HTML file that needs no network: charts, scripts and styles inside."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

import vl_convert

from mm_pipelines.report.audience_summary import DAY_COLUMNS, AudienceSummary, day_cells
from mm_pipelines.report.charts import charts, styled
from mm_pipelines.report.figures import Figures
from mm_pipelines.report.growth import Growth
from mm_pipelines.report.growth_table import COLUMNS, cells

# The policy forbids every request, so a mailed file cannot report that it was opened.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'">
<title>Growth report</title>
<style>
body {{ font: 15px/1.5 Helvetica, Arial, sans-serif; color: #1f2a37; background: #f4f6f9;
 max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; margin-bottom: 0; }}
h2 {{ margin-top: 2.5rem; }}
p {{ color: #4a5666; }}
.charts {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(470px, 1fr)); }}
figure {{ background: white; border: 1px solid #e2e7ee; border-radius: 8px; margin: 0;
 padding: 1rem; overflow-x: auto; }}
figure:first-child {{ grid-column: 1 / -1; }}
figure div {{ width: 100%; }}
figcaption {{ font-weight: bold; margin-bottom: .5rem; }}
table {{ background: white; border-collapse: collapse; font-size: 13px; margin-top: 1rem;
 width: 100%; }}
td, th {{ border-bottom: 1px solid #e2e7ee; padding: .3rem .6rem; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
</style>
</head>
<body>
<h1>Growth report</h1>
<p>Made at {made_at:%Y-%m-%d %H:%M} UTC. It contains counts only, no data of single people.</p>
{sections}
<script>{library}</script>
<script>
for (const [id, specification] of Object.entries({specifications}))
  vegaEmbed("#" + id, specification, {{actions: false, renderer: "svg"}});
</script>
</body>
</html>
"""


@dataclass(frozen=True)
class PageSection:
    """What the report shows of one Page.

    Attributes:
        days: The counted days, the oldest first.
        audiences: The summaries of single audiences, if they were asked for.
    """

    figures: Figures
    days: Sequence[Growth]
    audiences: Sequence[AudienceSummary] = ()


def report(pages: Sequence[PageSection], made_at: datetime) -> str:
    """The HTML of a report, made at a time in UTC."""
    sections = []
    specifications: dict[str, dict[str, Any]] = {}
    for page in pages:
        boxes = []
        for caption, chart in charts(page.figures).items():
            identifier = f"chart{len(specifications)}"
            specifications[identifier] = styled(chart) | {"width": "container"}
            boxes.append(
                f'<figure><figcaption>{escape(caption)}</figcaption><div id="{identifier}"></div>'
                "</figure>"
            )
        sections += [
            f"<h2>{escape(page.figures.scope.page)}</h2><p>{escape(_scope(page.figures))}</p>",
            *(_audience(summary) for summary in page.audiences),
            f'<div class="charts">{"".join(boxes)}</div>',
            _table(("day", *COLUMNS), [[str(day.day), *cells(day)] for day in reversed(page.days)]),
        ]
    return _PAGE.format(
        made_at=made_at,
        sections="\n".join(sections),
        library=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        specifications=_json(specifications),
    )


def _audience(summary: AudienceSummary) -> str:
    title = escape(summary.name or summary.audience)
    link = summary.ads_manager_url
    waiting = summary.waiting or ["Nothing waits."]
    return (
        f"<h3>{title}</h3><p>{summary.people:,} people, matched {escape(summary.matched)}. "
        + (f'<a href="{escape(link)}">Open in Ads Manager</a>' if link else "")
        + f"</p><ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in waiting)}</ul>"
        + _table(DAY_COLUMNS, [day_cells(day) for day in summary.days])
    )


def _scope(figures: Figures) -> str:
    scope = figures.scope
    audiences = ", ".join(scope.audiences) or "none"
    return f"{scope.since} to {scope.until}. Match rates and rejected rows of: {audiences}."


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [("th", headings), *(("td", row) for row in rows)]
    return "".join(
        [
            "<table>",
            *(
                f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in line)}</tr>"
                for tag, line in lines
            ),
            "</table>",
        ]
    )


def _json(document: object) -> str:
    # A script ends at the first "</", also inside a string.
    return json.dumps(document).replace("</", "<\\/")
