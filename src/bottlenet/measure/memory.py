"""Measure how much memory a device's process takes at most that runs one partition and does nothing else.

    peak_rss_bytes() --> python -m bottlenet.measure.memory BUNDLE PARTITION PHOTO --prints--> bytes

A process of its own, which imports only what its partition needs: what is imported is part of what is measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bottlenet.errors import BundleError

if TYPE_CHECKING:
    from bottlenet.edge.encoder import Partition

LIMIT_S = 120.0  # a small machine may need long for its imports
STATUS = Path("/proc/self/status")


def peak_rss_bytes(bundle: Path, partition: Partition, photo: Path) -> int:
    """Start a process that turns one photo into a frame or a class, and return its peak. BundleError: it failed."""
    arguments = [str(bundle.resolve()), json.dumps(dataclasses.asdict(partition)), str(photo.resolve())]
    # A file in the current folder must not stand in for a module of ours.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "bottlenet.measure.memory", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT_S, check=True)
        return int(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        why = (said or str(error)).strip().splitlines()[-1]
        raise BundleError(f"{bundle}: the memory of {partition.name} can't be measured: {why:.200}") from error


def run_partition(bundle: str, partition: str, photo: str) -> None:
    """Process one photo with as few imports as the partition needs."""
    from bottlenet.bundle import Bundle

    loaded, wanted = Bundle.load(bundle), json.loads(partition)
    if wanted["cut"] is not None:
        from bottlenet.edge.encoder import Encoder

        Encoder(loaded).work(photo, 0, wanted["sure"])
        return
    from bottlenet.photo import photo_to_pixels

    preprocess = loaded.manifest.uncut_preprocess
    size = wanted["size"] or preprocess.size
    pixels = photo_to_pixels(photo, dataclasses.replace(preprocess, size=size))
    if wanted["codec"] is not None:
        from bottlenet.wire.pictures import InputCodec

        InputCodec(**wanted["codec"]).encode(pixels)
        return
    from bottlenet.runtime import open_session, run_graph, sizable_uncut

    graph = loaded.graph("uncut.onnx") if size == preprocess.size else sizable_uncut(loaded)
    run_graph(open_session(graph), pixels=pixels[None])


def own_peak_bytes() -> int:
    """Linux says it of the program alone; `getrusage` there includes what the parent had before."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    run_partition(*sys.argv[1:])
    print(own_peak_bytes())
