"""Rows of the tables of docs/planning.md: partitions end to end, and what following the plan loses."""

from __future__ import annotations

import statistics
from typing import Any

Rows = tuple[list[str], list[list[str]]]


def regret_rows(results: dict[str, Any]) -> Rows:
    """By the partition that was fastest: how often, and what was lost where the plan chose another."""
    runs = results["runs"]
    rows = []
    for name in results["wins"]:
        here = [run for run in runs if run["best"] == name]
        rows.append([name, str(len(here)), str(sum(run["choice"] == name for run in here)), *lost(here)])
    chosen = str(results["best_is_chosen"])
    rows.append(["**all**", f"**{len(runs)}**", f"**{chosen}**", *(f"**{text}**" for text in lost(runs))])
    return ["fastest partition", "conditions", "chosen by the plan", "median regret", "worst regret"], rows


def lost(runs: list[dict[str, Any]]) -> list[str]:
    """Median and worst."""
    regrets = [run["regret"] for run in runs]
    return [f"{100 * statistics.median(regrets):.1f} %", f"{100 * max(regrets):.1f} %"]


def bench_rows(results: dict[str, Any]) -> Rows:
    """Make a row for each device and link: who is fastest, and the split beside its bound and beside whole photos."""
    beside = ["cloud-only, JPEG 95", *(f"cloud-only, {name}" for name in results["added"])]
    rows = []
    for report in results["reports"]:
        for link in dict.fromkeys(row["link"] for row in report["rows"]):
            done = {row["partition"]: row for row in report["rows"] if row["link"] == link and row["latency_ms"]}
            split = min((row for row in done.values() if row["kind"] == "split"), key=latency, default=None)
            if split is None:
                continue
            best = min(done.values(), key=latency)
            slowdown = report["conditions"][0]["device_slowdown"]
            device = "this machine" if slowdown == 1 else f"slowed down {slowdown:g} times"
            others = [done.get(name) for name in beside]
            rows.append(
                [
                    f"{device}, {link}",
                    best["partition"],
                    *(f"{each:,.0f}" for each in (latency(best), latency(split), split["bound_ms"])),
                    *("-" if each is None else f"{latency(each):,.0f}" for each in others),
                    " / ".join("-" if each is None else f"{each['photos_per_s']:,.1f}" for each in (split, *others)),
                ]
            )
    names = [name.removeprefix("cloud-only, ") for name in beside]
    header = ["device, link", "fastest", "ms", "split, ms", "split's bound, ms", *(f"{name}, ms" for name in names)]
    return [*header, f"photos/s: split / {' / '.join(names)}"], rows


def latency(row: dict[str, Any]) -> float:
    return float(row["latency_ms"])
