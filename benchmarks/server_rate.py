"""How many photos a second does a server answer, beside a loop of the tail alone, and beside another commit's server?

Servers are processes of their own, and answer the same frame on streams that each wait for their answer. The tail runs
in a loop in this one, at its best batch size. All take turns, and of the rounds the middle one counts. By the server's
processor time: see README.md. With `--before` also by POST, with a tail that does nothing, and the device's encoder.

    git worktree add ../before COMMIT
    python benchmarks/server_rate.py --before ../before/src
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np

from bottlenet.bundle import Bundle
from bottlenet.edge import Encoder
from bottlenet.runtime import open_tail, run_graph
from idle_streams import PHOTO, server
from load import CONNECTIONS, UNLIMITED, go
from load_client import POST, STREAM, Asked, closed
from load_servers import trivial_bundle
from record import Json, git, parser, run_script, show, write_record

BATCHES = (1, 2, 4, 8, 16)
TARGET_TAIL, TARGET_BEFORE = 0.9, 1.6  # times what stands beside it
TARGET_OTHERS = 0.95  # the same, of other ways; none for a tail that does nothing
TRIVIAL_TIMES = 20  # requests for each photo, of a tail that does nothing
ENCODE = """
import sys, time
from bottlenet.bundle import Bundle
from bottlenet.edge import Encoder
bundle, photo, count = sys.argv[1:]
encoder = Encoder(Bundle.load(bundle))
encoder.encode(photo)
started = time.process_time()
for _ in range(int(count)):
    encoder.encode(photo)
print(int(count) / (time.process_time() - started))
"""
OURS = Path(__file__).parent.parent / "src"


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has taken, as Linux counts."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tail_rate(bundle: Bundle, photos: int) -> float:
    """Photos of a second of processor time, of the tail and nothing else, at its best batch size."""
    tail, symbols = open_tail(bundle, 1), bundle.codec.decode(Encoder(bundle).encode(str(PHOTO)).frame.payload)
    rates = []
    for size in BATCHES:
        batch, times = np.stack([symbols] * size), -(-photos // size)
        run_graph(tail, symbols=batch)
        started = time.process_time()
        for _ in range(times):
            run_graph(tail, symbols=batch)
        rates.append(times * size / (time.process_time() - started))
    return max(rates)


def encoder_rate(bundle: str, photos: int) -> float:
    """Photos of a second of processor time that a device encodes."""
    command = [sys.executable, "-c", ENCODE, bundle, str(PHOTO), str(photos)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def compare(arguments: argparse.Namespace) -> list[dict[str, Json]]:
    """Measure this checkout and the other one, in turns: each tail by each way, and the encoder."""
    sources = {"server": OURS, "before": arguments.before.resolve()}
    found: dict[str, dict[str, list[float]]] = {}

    def add(what: str, name: str, rate: float) -> None:
        found.setdefault(what, {each: [] for each in sources})[name].append(rate)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        trivial, small = trivial_bundle(Path(folder))
        real = Bundle.load(arguments.bundle)
        tails = [
            ("real", real, Encoder(real).encode(str(PHOTO)).frame, arguments.photos),
            ("trivial", trivial, small, arguments.photos * TRIVIAL_TIMES),
        ]
        running = {}
        for name, source in sources.items():
            with mock.patch.dict(os.environ, PYTHONPATH=str(source)):
                for tail, bundle, *_ in tails:
                    running[tail, name] = stack.enter_context(server(str(bundle.path), *UNLIMITED))
        for number in range(arguments.rounds):
            for name in sources if number % 2 else reversed(sources):
                with mock.patch.dict(os.environ, PYTHONPATH=str(sources[name]), OMP_NUM_THREADS="1"):
                    add("encoder", name, encoder_rate(str(real.path), arguments.photos))
                for tail, bundle, frame, count in tails:
                    pid, port = running[tail, name]
                    for way in (POST, STREAM):
                        asked = Asked(way, port, bundle.id.hex(), frame)
                        go(closed(asked, CONNECTIONS, 2 * CONNECTIONS))
                        before_s = processor_s(pid)
                        go(closed(asked, CONNECTIONS, count))
                        add(f"{tail} tail, {way}", name, count / (processor_s(pid) - before_s))
    return [
        {
            "what": what,
            "per_processor_s": {name: list(each) for name, each in rates.items()},
            "share": statistics.median(rates["server"]) / statistics.median(rates["before"]),
            "target": None if what.startswith("trivial") else TARGET_OTHERS,
        }
        for what, rates in found.items()
    ]


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Photos of a second of processor time, of each round."""
    bundle = Bundle.load(arguments.bundle)
    frame = Encoder(bundle).encode(str(PHOTO)).frame
    sources = {"server": OURS, **({"before": arguments.before.resolve()} if arguments.before else {})}
    rates: dict[str, list[float]] = {name: [] for name in [*sources, "tail"]}
    with ExitStack() as stack:
        running = {}
        for name, source in sources.items():
            with mock.patch.dict(os.environ, PYTHONPATH=str(source)):
                running[name] = stack.enter_context(server(arguments.bundle, *UNLIMITED))
        for number in range(arguments.rounds):
            rates["tail"].append(tail_rate(bundle, arguments.photos // len(BATCHES)))
            for name in running if number % 2 else reversed(running):
                pid, port = running[name]
                asked = Asked(STREAM, port, bundle.id.hex(), frame)
                go(closed(asked, CONNECTIONS, 2 * CONNECTIONS))
                before_s = processor_s(pid)
                go(closed(asked, CONNECTIONS, arguments.photos))
                rates[name].append(arguments.photos / (processor_s(pid) - before_s))
    return rates


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    rates = measure(arguments)
    middle = {name: statistics.median(each) for name, each in rates.items()}
    targets = {"tail": TARGET_TAIL, "before": TARGET_BEFORE}
    rows: list[dict[str, Json]] = [
        {"beside": name, "share": middle["server"] / middle[name], "target": targets[name]}
        for name in targets
        if name in middle
    ]
    show(
        f"{CONNECTIONS} connections, {middle['server']:,.0f} photos of a second of processor time",
        ["beside", "photos", "ratio", "target"],
        [[row["beside"], f"{middle[row['beside']]:,.0f}", f"{row['share']:.2f}", str(row["target"])] for row in rows],
    )
    ways = compare(arguments) if arguments.before else []
    show(
        "beside the other commit, of a second of processor time",
        ["what", "ratio", "target"],
        [[str(row["what"]), f"{row['share']:.2f}", str(row["target"] or "")] for row in ways],
    )
    results: Json = {
        "connections": CONNECTIONS,
        "rounds": arguments.rounds,
        "photos": arguments.photos,
        "before_commit": git(arguments.before, "rev-parse", "HEAD") if arguments.before else None,
        "photos_per_processor_s": {name: list(each) for name, each in rates.items()},
        "rows": rows,
        "ways": list(ways),
        "met": all(row["share"] >= row["target"] for row in rows),
    }
    write_record("server_rate", results, arguments.out)


def main() -> None:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--before", type=Path, help="src of another checkout, whose server takes turns with this one")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--photos", type=int, default=1500, help="of a round")
    run_script(made, run)


if __name__ == "__main__":
    main()
