"""Rows about what training sustains, each there once its record is."""

from __future__ import annotations

import json
from typing import Any

from record import RESULTS


def rate_figures() -> list[list[str]]:
    """List what, how much, and the command that makes it again."""
    rows = []
    if codec := recorded("codec_rate"):
        for one in codec["results"]["rows"]:
            latent = " x ".join(map(str, one["latent"]))
            what = f"photos/s through JPEG and back, batch {one['batch']}, {latent}; share of a step at 5,000 photos/s"
            value = f"{one['photos_per_s']:,.0f}; {100 * one['codec_share_at_5000_photos_per_s']:.0f} %"
            rows.append([what, value, codec["command"]])
    if loader := recorded("loader_rate"):
        results = loader["results"]
        size = results["size"]
        what = f"photos/s decoded and cropped to {size} x {size} by one worker of `--no-cache`"
        rows.append([what, f"{results['photos_per_s_per_worker']:,.0f}", loader["command"]])
    return rows


def recorded(name: str) -> dict[str, Any] | None:
    """Read a record; None where there is none yet."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
