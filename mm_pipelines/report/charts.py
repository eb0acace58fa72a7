"""The growth report's charts, with Altair; vl-convert renders them without a browser.

Importing Altair takes a second, so callers import this module only to draw.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, TypeAlias

import altair as alt
import vl_convert

from mm_pipelines.report.figures import SOURCES, Figures, FunnelStep

_COLORS = alt.Scale(range=["#2563a8", "#1a936f", "#e09f3e", "#8e5aa8", "#8a94a3"])
_GAINED, _LOST, _BAR = "#1a936f", "#c8553d", "#2563a8"
_WIDTH, _HALF, _HEIGHT, _ROW = 820, 360, 210, 27
_DAY_AXIS = alt.Axis(format="%b %d", tickCount=6, grid=False)
_DAY = alt.X("utcyearmonthdate(day):T", title=None, axis=_DAY_AXIS)
_DAY_TOOLTIP = alt.Tooltip("day:N", title="day")
_SHORT_NUMBERS = alt.Axis(format="~s", tickMinStep=1)
_LEGEND = alt.Legend(columns=3, symbolLimit=12)
Drawing: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart

_STYLE = {
    "aria": False,
    "font": "Helvetica, Arial, sans-serif",
    "background": "white",
    "padding": 12,
    "view": {"stroke": None},
    "axis": {
        "domainColor": "#c4ccd6",
        "gridColor": "#edf0f4",
        "labelColor": "#4a5666",
        "labelFontSize": 11,
        "labelLimit": 260,
        "labelOverlap": "greedy",
        "tickColor": "#c4ccd6",
    },
    "title": {"anchor": "start", "fontSize": 14, "color": "#1f2a37"},
    "legend": {"title": None, "orient": "bottom", "labelFontSize": 11},
}


def charts(figures: Figures) -> dict[str, Drawing]:
    """The charts that have something to show, by their headings."""
    drawn: dict[str, Drawing] = {
        f"From list rows to sendable tokens, until {figures.scope.until}": _funnel(figures.funnel)
    }
    if figures.tokens:
        drawn["Live tokens by source"] = _tokens(figures.tokens)
        drawn["Tokens gained and lost by day"] = _churn(figures.churn)
    if figures.match_rates:
        drawn["Match rate by audience, between Meta's bounds"] = _match_rates(figures.match_rates)
    if figures.rejections:
        drawn["Rejected rows by reason"] = _rejections(figures.rejections)
    return drawn


def picture(figures: Figures) -> str:
    """All charts as one SVG image in Markdown."""
    titled = [chart.properties(title=title) for title, chart in charts(figures).items()]
    rows = [titled[0].properties(width=_WIDTH - 150)]
    rows += [
        alt.hconcat(*titled[first : first + 2], spacing=40).resolve_scale(color="independent")
        for first in range(1, len(titled), 2)
    ]
    whole = alt.vconcat(*rows, spacing=24)
    svg = vl_convert.vegalite_to_svg(styled(whole))
    title = f"{figures.scope.page}, {figures.scope.until}"
    return f"![{title}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"


def styled(chart: Any) -> dict[str, Any]:
    """The Vega-Lite specification of a chart in the report's style."""
    return dict(chart.to_dict()) | {"config": _STYLE}


def _funnel(steps: Sequence[FunnelStep]) -> Drawing:
    rows = [
        {"step": step.label, "count": step.count or 0, "text": _count_and_share(step)}
        for step in steps
    ]
    most = max((step.count or 0 for step in steps), default=0)
    with_text = alt.Scale(domain=[0, 1.2 * most or 1])
    base = alt.Chart(alt.InlineData(rows)).encode(
        x=alt.X("count:Q", title=None, axis=None, scale=with_text),
        y=alt.Y("step:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False)),
        tooltip=[alt.Tooltip("step:N"), alt.Tooltip("text:N", title="count")],
    )
    bars = base.mark_bar(color=_BAR, height=18, cornerRadius=2)
    texts = base.mark_text(align="left", dx=6, fontSize=11).encode(text="text:N")
    return alt.layer(bars, texts).properties(width=_HALF, height=_ROW * len(rows))


def _count_and_share(step: FunnelStep) -> str:
    if step.count is None:
        return "unknown"
    share = "" if step.conversion is None else f" · {step.conversion:.0%} of the step before"
    return f"{step.count:,}{share}"


def _tokens(rows: Sequence[dict[str, Any]]) -> Drawing:
    return _by_day(rows).encode(
        y=alt.Y("tokens:Q", title=None, axis=_SHORT_NUMBERS),
        color=alt.Color("source:N", sort=list(SOURCES.values()), scale=_COLORS, legend=_LEGEND),
        tooltip=[_DAY_TOOLTIP, alt.Tooltip("source:N"), alt.Tooltip("tokens:Q", format=",")],
    )


def _churn(rows: Sequence[dict[str, Any]]) -> Drawing:
    colors = alt.Scale(domain=["gained", "lost"], range=[_GAINED, _LOST])
    return _by_day(rows).encode(
        y=alt.Y("tokens:Q", title=None, axis=_SHORT_NUMBERS),
        color=alt.Color("kind:N", scale=colors, legend=_LEGEND),
        tooltip=[_DAY_TOOLTIP, alt.Tooltip("kind:N"), alt.Tooltip("tokens:Q", format=",")],
    )


def _by_day(rows: Sequence[dict[str, Any]]) -> alt.Chart:
    bars: alt.Chart = alt.Chart(alt.InlineData(list(rows))).mark_bar()
    return bars.encode(x=_DAY).properties(width=_HALF, height=_HEIGHT)


def _match_rates(rows: Sequence[dict[str, Any]]) -> Drawing:
    base = alt.Chart(alt.InlineData(list(rows))).encode(
        x=_DAY,
        y=alt.Y("lower:Q", title=None, axis=alt.Axis(format="%")),
        color=alt.Color("audience:N", scale=_COLORS, legend=_LEGEND),
        tooltip=[
            _DAY_TOOLTIP,
            alt.Tooltip("audience:N"),
            alt.Tooltip("lower:Q", title="at least", format=".1%"),
            alt.Tooltip("upper:Q", title="at most", format=".1%"),
        ],
    )
    band = base.mark_area(opacity=0.2).encode(y2="upper:Q")
    # The band of an audience with a single day has no width; its points show.
    lower = base.mark_line(strokeWidth=1, point=alt.OverlayMarkDef(size=12))
    upper = lower.encode(y="upper:Q")
    return alt.layer(band, lower, upper).properties(width=_HALF, height=_HEIGHT)


def _rejections(rows: Sequence[dict[str, Any]]) -> Drawing:
    base = alt.Chart(alt.InlineData(list(rows))).encode(
        x=alt.X("rows:Q", title=None, axis=None),
        y=alt.Y("reason:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False)),
        tooltip=[alt.Tooltip("reason:N"), alt.Tooltip("rows:Q", format=",")],
    )
    bars = base.mark_bar(color=_LOST, height=16, cornerRadius=2)
    numbers = base.mark_text(align="left", dx=5, fontSize=11).encode(
        text=alt.Text("rows:Q", format=",")
    )
    return alt.layer(bars, numbers).properties(width=_HALF, height=_ROW * max(len(rows), 2))
