"""Latency of a photo as bars, a group a link: measured by `bottlenet bench`, or computed from a profile.

Medians do not add up: of what was measured, the part of the link is what device and server leave of the latency.
"""

from __future__ import annotations

from collections.abc import Sequence

from bottlenet.lab.bench import Report, Row, by_condition
from bottlenet.lab.chart.bars import Bar, Group, bar_chart
from bottlenet.lab.chart.svg import Drawing
from bottlenet.plan.link import Link
from bottlenet.plan.planner import predict
from bottlenet.plan.profile import Profile
from bottlenet.plan.reason import rate

PARTS = ("device", "link", "server")


def draw_measured(report: Report) -> Drawing:
    """The median's parts, the 95th percentile, the bound."""
    groups = []
    for conditions, rows in by_condition(report):
        bars = tuple(bar for row in rows if (bar := measured(row)) is not None)
        missing = tuple((row.partition, row.skipped or "not measured") for row in rows if measured(row) is None)
        groups.append(Group(link_words(conditions.link), bars, missing))
    title = "Latency of a photo, end to end, ms"
    fastest = [f"on {group.name} {best(group)}" for group in groups if group.bars]
    words = f"Device: {report.device}. Fastest: {'; '.join(fastest) or 'nothing was measured'}."
    return bar_chart(title, words, groups, PARTS, "ms")


def measured(row: Row) -> Bar | None:
    """None: it was skipped."""
    if row.latency_ms is None or row.device_ms is None or row.server_ms is None:
        return None
    device, server = min(row.device_ms, row.latency_ms), row.server_ms
    parts = (device, max(0.0, row.latency_ms - device - server), server)
    note = f"{row.latency_ms:,.1f} ms" + (f", {row.socket_bytes:,.0f} bytes" if row.socket_bytes else "")
    return Bar(row.partition, parts, note, row.latency_p95_ms, row.bound_ms)


def draw_predicted(profile: Profile, links: Sequence[Link]) -> Drawing:
    """What the planner computes with."""
    groups = []
    for link in links:
        bars = []
        for candidate in profile.candidates:
            made = predict(candidate, link)
            device, server = made.device_s * 1e3, made.server_s * 1e3
            parts = (device, made.latency_s * 1e3 - device - server, server)
            note = f"{sum(parts):,.1f} ms" + (f", {made.uplink_bytes:,.0f} bytes" if made.uplink_bytes else "")
            bars.append(Bar(candidate.name, parts, note))
        groups.append(Group(link_words(link), tuple(bars)))
    words = f"Device: {profile.device}. Fastest: {'; '.join(f'on {group.name} {best(group)}' for group in groups)}."
    return bar_chart("Latency of a photo, computed from the profile, ms", words, groups, PARTS, "ms")


def best(group: Group) -> str:
    """In words."""
    bar = min(group.bars, key=lambda each: sum(each.parts))
    return f"{bar.name}, {bar.note}"


def link_words(link: Link) -> str:
    """3G: 1.1 Mbit/s up, round trip 100 ms."""
    return f"{link.name}: {rate(link.uplink_bps)} up, round trip {link.round_trip_s * 1e3:g} ms"
