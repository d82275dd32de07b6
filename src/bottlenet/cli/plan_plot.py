"""`bottlenet plan --plot`: each candidate's latency, or energy, over the uplink's bandwidth, as an SVG file."""

from __future__ import annotations

from bottlenet.cli.plan_files import PLOT_MARK
from bottlenet.lab.chart.flips import draw_flips
from bottlenet.plan.planner import Plan
from bottlenet.plan.profile import Profile


def draw(profile: Profile, plan: Plan, *, connected: bool) -> str:
    """An SVG document."""
    return draw_flips(profile, plan, connected=connected).document(PLOT_MARK)
