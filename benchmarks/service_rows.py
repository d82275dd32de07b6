"""Rows of the tables of docs/operating.md: what a server carries."""

from __future__ import annotations

import statistics
from typing import Any

Rows = tuple[list[str], list[list[str]]]


def load_rows(results: dict[str, Any]) -> Rows:
    """List rates beside what they are compared with, waiting, memory."""
    rows = []
    for one in results["rates"]:
        rates = f"{statistics.median(one['per_s']):,.0f} / {statistics.median(one['beside_per_s']):,.0f} per second"
        rows.append([f"{one['what']} / {one['beside']}", rates, f"{one['share']:.2f}", f"{one['target']:.2f} or more"])
    for one in results["latency"]:
        what = f"p99 / p50 at {results['load']:.0%} load, {one['arrivals']} arrivals"
        judged = one["arrivals"] == "even"
        ratio = f"{one['ratio']:.2f}, median of {len(one['ratios'])}"
        ideal = one["ideal_p99_ms"] / one["ideal_p50_ms"]
        aim = f"below {results['target_p99_ratio']:.0f}" if judged else f"none; an ideal queue has {ideal:.1f}"
        rows.append([what, f"{one['p99_ms']:.0f} / {one['p50_ms']:.0f} ms", ratio, aim])
    first, last = results["memory"][0], results["memory"][-1]
    sizes = " / ".join(f"{each['resident_bytes'] / 1e6:.0f} MB" for each in (last, first))
    what = f"memory after {last['requests']:,} frames / {first['requests']:,}"
    rows.append([what, sizes, f"{1 + results['grown_share']:.3f}", f"below {1 + results['target_grown_share']:.2f}"])
    idle = results["idle"]
    what = f"memory with {idle['streams']:,} idle streams"
    taken = f"{idle['resident_bytes'] / 1e6:.0f} MB"
    rows.append([what, taken, "", f"below {idle['target_bytes'] / 1e6:.0f} MB"])
    return ["quantity", "measured", "ratio", "target"], rows
