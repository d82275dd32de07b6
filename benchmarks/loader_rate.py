"""How many photos a second does one worker of `bottlenet train --no-cache` decode?

A worker's own code, in this process: photos are read, decoded, cropped at random, scaled and some mixed with the one
before, batch by batch. Processor time of one thread, so as many workers as there are free cores decode as many times
that.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from rich.progress import track

from bottlenet.demo.run import PHOTOS as DEMO_PHOTOS
from bottlenet.photos.folders import list_photos
from bottlenet.train.config import TrainConfig
from bottlenet.train.features import PhotoDataset, Request, Selection
from record import parser, run_script, show, write_record
from timing import processor_ms


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write. The first batch warms up."""
    listed = list_photos(arguments.data)
    photos = PhotoDataset(listed, (arguments.size,), 0, TrainConfig.blend)
    taken = []
    for number in track(range(arguments.batches + 1), description="decode"):
        positions = (number * arguments.batch + np.arange(arguments.batch)) % len(listed)
        request = Request(1, Selection(positions, int(positions[0] - 1) % len(listed)), mixed=True)
        taken.append(processor_ms(lambda request=request: photos[request]))
    per_s = 1e3 * arguments.batch / statistics.median(taken[1:])
    show(f"{arguments.size} x {arguments.size} crops", ["", "photos/s"], [["one worker", f"{per_s:,.0f}"]])
    results = {
        "data": Path(arguments.data).name,
        "photos": len(listed),
        "size": arguments.size,
        "batch": arguments.batch,
        "batches": arguments.batches,
        "photos_per_s_per_worker": per_s,
    }
    write_record("loader_rate", results, arguments.out)


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--data", default=str(DEMO_PHOTOS), help="folder of photos; the package's demo photos")
    made.add_argument("--size", type=int, default=224, help="of a crop, pixels")
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--batches", type=int, default=20, help="that are timed")
    run_script(made, run)
