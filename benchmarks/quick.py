"""A bundle in a minute without training: its time on one core, and bytes against agreement beside a trained one.

    python benchmarks/quick.py --train TRAIN --eval EVAL

`bottlenet quick` runs as a process of its own on one core, and is timed from its start to the finished bundle and its
measurement. Then that bundle and the shipped one, which is trained and cut at the same place, go through the same
photos at the same budgets.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bottlenet.bundle import Bundle
from bottlenet.measure.evaluate import Evaluation, evaluate_budgets
from bottlenet.photos.folders import photos_for
from record import Json, add_network, parser, run_script, show, write_record

BUDGETS = (100, 200, 400, 800, 1600, 3200, 6400)


def options() -> argparse.ArgumentParser:
    made = parser(__doc__)
    add_network(made)
    made.add_argument("--train", required=True, help="folder of photos to fit to")
    made.add_argument("--eval", required=True, help="folder of other photos")
    made.add_argument("--limit", type=int, default=None, help="use only this many of the latter")
    made.add_argument("--fit", type=int, default=256, help="photos to fit to")
    return made


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quick.bundle"
        took = timed(["quick", args.model, "--cut", args.cut, "--data", args.train, "--limit", str(args.fit)], path)
        curves = {"not trained": Bundle.load(path)}
        if (args.model, args.cut) == ("efficientnet_lite0", "blocks.8"):
            curves["shipped, trained"] = Bundle.load("demo")
        rows = {name: curve(bundle, args.eval, args.limit) for name, bundle in curves.items()}
    for name, found in rows.items():
        table = [[f"{row['payload_bytes']:,.0f}", f"{row['agreement']:.1f} %"] for row in found]
        show(f"{args.model} at {args.cut}, {name}", ("payload bytes", "agreement"), table)
    write_record("quick", {"model": args.model, "cut": args.cut, **took, "curves": rows}, args.out)


def timed(command: Sequence[str], bundle: Path) -> dict[str, Json]:
    """Run bottlenet on one core; the wall clock counts what else the machine did, too."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    program = [sys.executable, "-m", "bottlenet.cli", *command, "-o", str(bundle), "--json"]
    done = subprocess.run(
        program,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
        stdout=subprocess.PIPE,
        check=True,
    )
    after, document = resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s": round(cpu, 1),
        "load": round(os.getloadavg()[0], 1),
        "photos_fitted": document["photos_fitted"],
        "photos_measured": document["curve"][0]["photos"],
    }


def curve(bundle: Bundle, data: str, limit: int | None) -> list[dict[str, float]]:
    found = evaluate_budgets(bundle, photos_for(bundle, data, limit), BUDGETS)
    return [row(budget, each) for budget, each in zip((*BUDGETS, 0), found, strict=True)]


def row(budget: int, found: Evaluation) -> dict[str, float]:
    """Write down a point; budget 0 is none."""
    assert found.agreement is not None
    figures = {"budget": budget, "payload_bytes": found.payload_bytes.mean, "agreement": found.agreement}
    return {**figures, "top1": found.top1 or 0.0, "top1_uncut": found.top1_uncut or 0.0, "photos": found.photos}


if __name__ == "__main__":
    run_script(options(), main)
