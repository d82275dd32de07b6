"""The record of live.py as a table: a day beside an oracle, phase by phase, on each device."""

from __future__ import annotations

from typing import Any


def day_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows."""
    rows = []
    for day in results["days"]:
        device = f"slowed down {day['device_slowdown']:g} times"
        for phase in day["phases"]:
            used = max(phase["partitions"], key=phase["partitions"].__getitem__)
            times = [f"{phase[name]:,.0f}" for name in ("median_ms", "p95_ms", "oracle_median_ms")]
            counts = [f"{phase['photos']:,}", str(phase["unanswered"])]
            rows.append([device, phase["name"], *counts, *times, str(len(phase["moves"])), used, phase["oracle"]])
        times = [f"**{day['median_ms']:,.0f}**", "", f"{day['oracle_median_ms']:,.0f}"]
        counts = [f"{day['photos']:,}", str(day["unanswered"])]
        rows.append([device, "**all**", *counts, *times, "", f"**{100 * day['excess']:+.1f} %**", ""])
    names = ["median ms", "p95 ms", "oracle median ms", "switches", "mostly used", "oracle uses"]
    return ["device", "phase", "photos", "unanswered", *names], rows
