"""`bottlenet bench --plot`: each partition's latency on each link, with its bound and what is sent, as SVG.

Written by hand, as `plan_plot` is. A bar is the median, its thin end the 95th percentile, the line across it the bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from bottlenet.cli.bench_tables import by_condition
from bottlenet.cli.plan_files import BENCH_PLOT_MARK
from bottlenet.cli.plan_plot import decades, share
from bottlenet.lab.bench import Report, Row

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 860, 190, 150, 60, 46
LINE, BAND = 18, 26  # height of a bar with its gap; of a link's name
FILLS = {"edge-only": "#bbb", "cloud-only": "white", "split": "black"}

Span = tuple[float, float]


def draw(report: Report) -> str:
    """An SVG document."""
    values = [value for row in report.rows for value in (row.latency_ms, row.latency_p95_ms, row.bound_ms) if value]
    span = (min(values) / 1.5, max(values) * 1.3) if values else (1.0, 10.0)
    height = TOP + BOTTOM + BAND * len(report.conditions) + LINE * len(report.rows)
    title = escape("Latency of a photo, end to end, ms (logarithmic); line across: the bound")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
            'font-size="12">',
            BENCH_PLOT_MARK.decode(),
            f"<title>{title}</title>",
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="12" y="22" font-size="14">{title}</text>',
            f'<text x="12" y="40">{escape(report.device[:120])}</text>',
            *grid(span, height),
            *bands(report, span),
            "</svg>\n",
        ]
    )


def at(value: float, span: Span) -> float:
    """Pixels."""
    return LEFT + (WIDTH - LEFT - RIGHT) * share(value, span)


def grid(span: Span, height: int) -> Iterator[str]:
    """Ticks."""
    for value in decades(span):
        x = at(value, span)
        yield f'<path d="M{x:.1f} {TOP}V{height - BOTTOM}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 8}" text-anchor="middle">ms</text>'


def bands(report: Report, span: Span) -> Iterator[str]:
    """One for each link."""
    y = float(TOP)
    for conditions, rows in by_condition(report):
        y += BAND
        yield f'<text x="12" y="{y - 8:.1f}" font-weight="bold">{escape(conditions.link.name)}</text>'
        for row in rows:
            yield from bar(row, y, span)
            y += LINE


def bar(row: Row, y: float, span: Span) -> Iterator[str]:
    """Name, median, p95, bound, and in words what it was."""
    middle = y + (LINE - 6) / 2
    yield f'<text x="{LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(row.partition[:28])}</text>'
    if row.latency_ms is None or row.latency_p95_ms is None or row.bound_ms is None:
        yield f'<text x="{LEFT + 6}" y="{middle + 4:.1f}" fill="#666">{escape((row.skipped or "")[:80])}</text>'
        return
    start, median, p95, bound = (
        at(value, span) for value in (span[0], row.latency_ms, row.latency_p95_ms, row.bound_ms)
    )
    yield (
        f'<rect x="{start:.1f}" y="{y:.1f}" width="{median - start:.1f}" height="{LINE - 6}" '
        f'fill="{FILLS[row.kind]}" stroke="black"/>'
    )
    yield f'<path d="M{median:.1f} {middle:.1f}H{p95:.1f}" stroke="black"/>'
    yield f'<path d="M{bound:.1f} {y - 3:.1f}v{LINE}" stroke="black" stroke-width="2"/>'
    text = f"{row.latency_ms:,.1f} ms" + (f", {row.socket_bytes:,.0f} bytes" if row.socket_bytes else "")
    yield f'<text x="{max(p95, bound, median) + 6:.1f}" y="{middle + 4:.1f}">{escape(text)}</text>'
