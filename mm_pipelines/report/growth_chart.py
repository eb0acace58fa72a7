"""A Page's growth drawn: the day's funnel, and the days until it, as one SVG picture.

It is an image in the asset's metadata, which the Dagster UI shows as it is, so it brings its own
background and does not depend on the UI's theme.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape

from mm_pipelines.report.growth import Growth

WIDTH, HEIGHT = 760, 430
_INK, _FAINT, _BAR, _LINE, _LEFT = "#1f2a37", "#d5dbe3", "#3b6fb6", "#1a936f", "#c8553d"
_ROW = 24
_FUNNEL = (
    ("list rows", "list_rows"),
    ("valid people", "valid"),
    ("new, delivered", "delivered"),
    ("processed", "processed"),
    ("matched so far", "matched"),
    ("tokens", "tokens"),
    ("sendable", "sendable"),
)
_MESSENGER = (("asked", "asked"), ("opted in", "opted_in"), ("left", "left_page"))


def as_table(days: Sequence[Growth]) -> str:
    """The days as a Markdown table, newest first."""
    columns = [*_FUNNEL, *_MESSENGER]
    lines = [
        "| day | " + " | ".join(label for label, _ in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for growth in reversed(days):
        cells = [_number(getattr(growth, name)) for _, name in columns]
        lines.append(f"| {growth.day} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_markdown_image(days: Sequence[Growth], title: str) -> str:
    """The picture as Markdown takes it: an image with its content in its address."""
    encoded = b64encode(as_svg(days, title).encode()).decode()
    return f"![{title}](data:image/svg+xml;base64,{encoded})"


def as_svg(days: Sequence[Growth], title: str) -> str:
    """The last day's funnel, and below it sendable tokens and leavers day by day."""
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="{_INK}">'
    )
    parts = [
        opening,
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_funnel(days[-1]),
        *_messenger(days[-1]),
        *_history(days),
        "</svg>",
    ]
    return "".join(parts)


def _funnel(growth: Growth) -> Iterator[str]:
    values = [(label, getattr(growth, name)) for label, name in _FUNNEL]
    yield from _bars(values, left=16, label_width=104, bar_width=260, color=_BAR)


def _messenger(growth: Growth) -> Iterator[str]:
    values = [(label, getattr(growth, name)) for label, name in _MESSENGER]
    yield from _bars(values, left=480, label_width=64, bar_width=130, color=_LINE)


def _bars(
    values: Sequence[tuple[str, int | None]],
    *,
    left: int,
    label_width: int,
    bar_width: int,
    color: str,
) -> Iterator[str]:
    most = max((value or 0 for _, value in values), default=0) or 1
    for place, (label, value) in enumerate(values):
        top = 44 + place * _ROW
        start = left + label_width
        width = max(1, round(bar_width * (value or 0) / most))
        fill = _LEFT if label == "left" else color
        yield f'<text x="{start - 8}" y="{top + 14}" text-anchor="end">{label}</text>'
        if value is not None:
            yield f'<rect x="{start}" y="{top + 3}" width="{width}" height="16" fill="{fill}"/>'
        yield f'<text x="{start + width + 6}" y="{top + 14}">{_number(value)}</text>'


def _history(days: Sequence[Growth]) -> Iterator[str]:
    top, bottom, left, right = 250, 396, 60, WIDTH - 20
    sendable = [growth.sendable or 0 for growth in days]
    leavers = [growth.left_page for growth in days]
    most, most_leavers = max([*sendable, 1]), max([*leavers, 1])
    step = (right - left) / max(1, len(days) - 1)
    # Few leave and many stay: the bars have a scale of their own, a third as high.
    legend = f"sendable tokens (line); left (bars, at most {_number(max(leavers))} a day)"
    yield f'<text x="16" y="{top - 16}" font-weight="bold">{legend}</text>'
    for share in (0, 0.5, 1):
        height = bottom - share * (bottom - top)
        yield f'<path d="M{left} {height:.0f}H{right}" stroke="{_FAINT}"/>'
        yield (
            f'<text x="{left - 8}" y="{height + 4:.0f}" text-anchor="end">'
            f"{_number(round(most * share))}</text>"
        )
    points = []
    for place, growth in enumerate(days):
        x = left + place * step
        height = (bottom - top) / 3 * leavers[place] / most_leavers
        yield (
            f'<rect x="{x - 4:.1f}" y="{bottom - height:.1f}" width="8" height="{height:.1f}" '
            f'fill="{_LEFT}"/>'
        )
        points.append(f"{x:.1f},{bottom - (bottom - top) * sendable[place] / most:.1f}")
        if place in (0, len(days) - 1):
            anchor = "start" if place == 0 and len(days) > 1 else "end"
            yield f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="{anchor}">{growth.day}</text>'
    yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{_LINE}" stroke-width="2"/>'
    for point in points:
        x_text, y_text = point.split(",")
        yield f'<circle cx="{x_text}" cy="{y_text}" r="3" fill="{_LINE}"/>'


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
