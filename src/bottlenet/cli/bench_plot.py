"""`bottlenet bench --plot`: each partition's latency on each link, by its parts, with its bound, as an SVG file."""

from __future__ import annotations

from bottlenet.cli.plan_files import BENCH_PLOT_MARK
from bottlenet.lab.bench import Report
from bottlenet.lab.chart.latency import draw_measured


def draw(report: Report) -> str:
    """An SVG document."""
    return draw_measured(report).document(BENCH_PLOT_MARK)
