"""Numbers and reasons in words: one sentence that says what wins, by how much, and where that changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bottlenet.plan.flips import Flip
from bottlenet.plan.predict import Prediction

SAID = 3  # flips in a sentence


def reason(
    choice: Prediction, runner_up: Prediction | None, flips: Sequence[Flip], objective: str, link_name: str
) -> str:
    """One sentence."""
    best = score(choice, objective)
    text = f"{choice.name} wins on {link_name} with {amount(best, objective)} a photo"
    if runner_up is None:
        text += ", as nothing else meets the constraints"
    else:
        other = score(runner_up, objective)
        text += f", {runner_up.name} would take {amount(other, objective)}{compared(other, best)}"
    if not flips:
        return f"{text}; no other bandwidth, round trip or server load changes that."
    # The first of each kind before the second of any: what people ask is "and on a faster link?".
    said = sorted(flips, key=lambda flip: (flip.winner is None, flip.side == "below"))[:SAID]
    return f"{text}; {', '.join(flip_words(flip) for flip in said)}."


def compared(other: float, best: float) -> str:
    """How much more, where that can be said."""
    if other == best:
        return ", as much"
    if best <= 0:
        return ""
    return f", {other / best - 1:.0%} more" if other < 2 * best else f", {other / best:.3g} times as much"


def flip_words(flip: Flip) -> str:
    """Above 22 Mbit/s cloud-only wins."""
    where = {
        "uplink_bps": f"{flip.side} {rate(flip.value)}",
        "round_trip_s": f"with a round trip {flip.side} {duration(flip.value)}",
        "server_load": f"with a server load {flip.side} {flip.value:.3g}",
    }[flip.quantity]
    return f"{where} nothing meets the constraints" if flip.winner is None else f"{where} {flip.winner} wins"


def score(prediction: Prediction, objective: str) -> float:
    """What the objective minimises."""
    value = {
        "latency": prediction.latency_s,
        "energy": prediction.device_energy_mj,
        "bytes": prediction.uplink_bytes,
        "cost": prediction.cost,
    }[objective]
    assert value is not None
    return value


def amount(value: float, objective: str) -> str:
    """A score with its unit."""
    if objective == "latency":
        return duration(value)
    return {
        "energy": f"{value:,.1f} mJ",
        "bytes": f"{value:,.0f} bytes of uplink",
        "cost": f"a cost of {value:.3g}",
    }[objective]


def duration(seconds: float) -> str:
    """3.1 ms, 12.5 s."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def rate(bps: float) -> str:
    """Three digits: 22 Mbit/s."""
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bps >= size:
            return f"{bps / size:.3g} {unit}" if bps < 1000 * size else f"{bps / size:,.0f} {unit}"
    return f"{bps:.3g} bit/s"


def at_least(value: float) -> str:
    """Rounded up to four digits, so that what is said is enough."""
    if value == 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return f"{math.ceil(value / step - 1e-9) * step:.10g}" if step < 1 else f"{math.ceil(value):d}"
