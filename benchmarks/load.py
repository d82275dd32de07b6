"""How much does a server carry, beside what it could at best?

Servers and the decoder are processes of their own; this one makes the requests. What is compared takes turns, round
after round, and of the rounds the middle one counts.

    trivial tail   a network of one product, payloads of 400 bytes: what is left is the server's own work. Beside it a
                   bare Starlette that sends back what it gets, on uvicorn as it is out of the box
    real tail      the bundle's; beside it the decoder in a loop, at its best batch size
    80 % load      0.8 times as many photos a second as were answered just before: evenly, as tools that load a server
                   send (wrk2, vegeta); each device at a regular interval, beginning at some moment; and all at random
                   moments. In the latter two some wait in line whatever the server does: beside them stands what a
                   line has that takes no time but that of the frames
    memory         of the trivial tail's server, while it answers; of the real one's with streams that say nothing
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from bottlenet.bundle import Bundle
from bottlenet.edge import Encoder
from idle_streams import PHOTO, TARGET_BYTES, TARGET_GROWTH, allow_files, measure_idle, resident_bytes, server
from load_client import POST, STREAM, Asked, closed, paced
from load_servers import trivial_bundle
from record import Json, parser, run_script, show, write_record

CONNECTIONS = 32
TARGET_ECHO, TARGET_BARE, TARGET_P99 = 0.6, 0.9, 3.0  # shares of what stands beside it; p99 in medians
LOAD = 0.8
ARRIVALS = ("even", "regular", "random")
WARM_UP = 500  # requests
PARTS = 10
UNLIMITED = ("--max-per-address", "1000000")
T = TypeVar("T")


@dataclass(frozen=True)
class Beside:
    """A rate, and the one that it is compared with; of all rounds, and the middle ones."""

    what: str
    per_s: list[float]
    beside: str
    beside_per_s: list[float]
    target: float

    @property
    def share(self) -> float:
        """Of the middle rounds."""
        return statistics.median(self.per_s) / statistics.median(self.beside_per_s)


@dataclass(frozen=True)
class Spread:
    """Milliseconds of photos at some load."""

    arrivals: str
    photos: int  # that were answered
    refused: int  # as the server was busy
    per_s: float
    p50_ms: float
    p99_ms: float
    ideal_p50_ms: float = 0.0  # of a line without a server
    ideal_p99_ms: float = 0.0
    ratios: tuple[float, ...] = ()  # p99 in medians, of each round

    @property
    def ratio(self) -> float:
        """Of the middle round."""
        return statistics.median(self.ratios)


def go(work: Coroutine[Any, Any, T]) -> T:
    """Run in an event loop that is as fast as the server's."""
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


@contextmanager
def echo_server() -> Iterator[int]:
    """Start an echo server, and yield its port."""
    command = [sys.executable, str(Path(__file__).with_name("load_servers.py")), "echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(json.loads(process.stdout.readline())["port"])
        finally:
            process.terminate()


def bare_rates(bundle: str, seconds: float) -> dict[str, float]:
    """Measure photos a second of the decoder alone, by batch size."""
    command = [sys.executable, str(Path(__file__).with_name("load_servers.py")), "bare", bundle, str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def measure_trivial(
    bundle: Bundle, asked: dict[str, Asked], echo_port: int, arguments: argparse.Namespace
) -> list[Beside]:
    """Measure both ways, beside the echo."""
    found = []
    for way, ours in asked.items():
        theirs = Asked(way, echo_port, ours.bundle_id, ours.frame, echoes=True)
        rates: dict[Asked, list[float]] = {ours: [], theirs: []}
        for number in range(arguments.rounds):
            for one in rates if number % 2 else reversed(rates):
                go(closed(one, CONNECTIONS, WARM_UP))
                rates[one].append(go(closed(one, CONNECTIONS, arguments.requests)))
        found.append(Beside(f"trivial tail, {way}", rates[ours], f"echo, {way}", rates[theirs], TARGET_ECHO))
    return found


def measure_memory(asked: dict[str, Asked], pid: int, requests: int) -> list[dict[str, float]]:
    """After each tenth of the requests on connections that stay: first by POST, then on streams."""
    taken: list[dict[str, float]] = []
    for number, one in enumerate(asked.values()):
        before = number * requests

        def look(done: int, before: int = before) -> None:
            taken.append({"requests": before + done, "resident_bytes": resident_bytes(pid)})

        go(closed(one, CONNECTIONS, requests, look, PARTS))
    return taken


def measure_real(name: str, asked: Asked, arguments: argparse.Namespace) -> tuple[Beside, dict[str, float]]:
    """Measure photos a second; and of the decoder alone, by batch size."""
    served: list[float] = []
    bare: list[dict[str, float]] = []
    go(closed(asked, CONNECTIONS, 2 * CONNECTIONS))
    for _ in range(arguments.rounds):
        bare.append(bare_rates(name, arguments.seconds / 5))
        requests = max(2 * CONNECTIONS, int(arguments.seconds * max(bare[-1].values())))
        served.append(go(closed(asked, CONNECTIONS, requests)))
    by_batch = {size: statistics.median(one[size] for one in bare) for size in bare[0]}
    best = max(by_batch, key=lambda size: by_batch[size])
    beside = Beside(
        "real tail, stream", served, f"decoder, batches of {best}", [one[best] for one in bare], TARGET_BARE
    )
    return beside, by_batch


def schedules(per_s: float, photos: int, source: random.Random) -> dict[str, list[list[float]]]:
    """When each connection sends, seconds, by the kind of arrivals."""
    interval_s = CONNECTIONS / per_s
    count = max(2, round(photos / CONNECTIONS))

    def from_(first: float) -> list[float]:
        return [first + number * interval_s for number in range(count)]

    return {
        "even": [from_(number / per_s) for number in range(CONNECTIONS)],
        "regular": [from_(source.uniform(0, interval_s)) for _ in range(CONNECTIONS)],
        "random": [sorted(source.uniform(0, count * interval_s) for _ in range(count)) for _ in range(CONNECTIONS)],
    }


def in_one_line(times: list[list[float]], frame_s: float) -> list[float]:
    """Compute each answer's milliseconds where one after the other takes `frame_s`, and nothing else takes any."""
    free_at, taken_ms = 0.0, []
    for due in sorted(itertools.chain.from_iterable(times)):
        free_at = max(free_at, due) + frame_s
        taken_ms.append((free_at - due) * 1e3)
    return taken_ms


def middle_and_late(taken_ms: list[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    ordered = sorted(taken_ms)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def measure_latency(asked: Asked, photos: int, rounds: int) -> list[Spread]:
    """By the kind of arrivals. What 80 % are is measured just before each: a shared machine's pace changes."""
    source = random.Random(1)
    found: dict[str, list[Spread]] = {}
    for _ in range(rounds):
        for arrivals in ARRIVALS:
            most = go(closed(asked, CONNECTIONS, photos // 2))
            times = schedules(LOAD * most, photos, source)[arrivals]
            taken, refused = go(paced(asked, CONNECTIONS, times))
            spread = Spread(arrivals, len(taken), refused, LOAD * most, *middle_and_late(taken))
            ideal = middle_and_late(in_one_line(times, 1 / most))
            found.setdefault(arrivals, []).append(replace(spread, ideal_p50_ms=ideal[0], ideal_p99_ms=ideal[1]))
    return [middle(spreads) for spreads in found.values()]


def middle(spreads: list[Spread]) -> Spread:
    """Take the median of each number over several rounds, but the sum of photos."""
    numbers = {
        name: statistics.median(getattr(each, name) for each in spreads)
        for name in ("per_s", "p50_ms", "p99_ms", "ideal_p50_ms", "ideal_p99_ms")
    }
    photos, refused = sum(each.photos for each in spreads), sum(each.refused for each in spreads)
    ratios = tuple(each.p99_ms / each.p50_ms for each in spreads)
    return Spread(spreads[0].arrivals, photos, refused, **numbers, ratios=ratios)


def run(arguments: argparse.Namespace) -> None:
    """Measure, show, write."""
    allow_files(arguments.streams)
    with tempfile.TemporaryDirectory() as folder:
        trivial, frame = trivial_bundle(Path(folder))
        with server(str(trivial.path), *UNLIMITED) as (pid, port), echo_server() as echo_port:
            asked = {way: Asked(way, port, trivial.id.hex(), frame) for way in (POST, STREAM)}
            found = measure_trivial(trivial, asked, echo_port, arguments)
            memory = measure_memory(asked, pid, arguments.memory_requests)
    bundle = Bundle.load(arguments.bundle)
    photo = Encoder(bundle).encode(str(PHOTO))
    with server(arguments.bundle, *UNLIMITED) as (pid, port):
        asked_real = Asked(STREAM, port, bundle.id.hex(), photo.frame)
        real, by_batch = measure_real(arguments.bundle, asked_real, arguments)
        spreads = measure_latency(asked_real, arguments.photos, arguments.latency_rounds)
    with server(arguments.bundle, *UNLIMITED) as (pid, port):
        idle = measure_idle(bundle, pid, port, arguments.streams)
    grown = max(
        memory[end]["resident_bytes"] / memory[end - PARTS + 1]["resident_bytes"] - 1 for end in (PARTS - 1, -1)
    )
    report([*found, real], spreads, grown, idle)
    results: dict[str, Json] = {
        "connections": CONNECTIONS,
        "payload_bytes": {"trivial": len(frame.payload), "real": len(photo.frame.payload)},
        "rates": [{**asdict(one), "share": one.share, "met": one.share >= one.target} for one in [*found, real]],
        "decoder_per_s": dict(by_batch),
        "load": LOAD,
        "latency": [{**asdict(one), "ratio": one.ratio} for one in spreads],
        "target_p99_ratio": TARGET_P99,
        "latency_met": spreads[0].ratio < TARGET_P99 and not spreads[0].refused,
        "memory": list(memory),
        "grown_share": grown,
        "target_grown_share": TARGET_GROWTH,
        "memory_met": grown < TARGET_GROWTH,
        "idle": {**idle, "target_bytes": TARGET_BYTES},
        "idle_met": idle["resident_bytes"] < TARGET_BYTES,
    }
    write_record("load", results, arguments.out)


def report(rates: list[Beside], spreads: list[Spread], grown: float, idle: dict[str, float]) -> None:
    """Print the table."""
    rows = [
        [
            f"{one.what} / {one.beside}",
            f"{statistics.median(one.per_s):,.0f} / {statistics.median(one.beside_per_s):,.0f} a second",
            f"{one.share:.2f}",
            f"{one.target:.2f} or more",
        ]
        for one in rates
    ]
    rows += [
        [
            f"p99 / p50 at {LOAD:.0%} load, {one.arrivals} arrivals",
            f"{one.p99_ms:.1f} / {one.p50_ms:.1f} ms; a line alone {one.ideal_p99_ms:.1f} / {one.ideal_p50_ms:.1f}",
            f"{one.ratio:.2f}",
            f"below {TARGET_P99:.2f}" if one.arrivals == ARRIVALS[0] else "",
        ]
        for one in spreads
    ]
    rows.append(
        ["memory, after all requests / a tenth of them", "", f"{1 + grown:.3f}", f"below {1 + TARGET_GROWTH:.3f}"]
    )
    rows.append(
        [
            f"memory with {idle['streams']:,.0f} idle streams",
            f"{idle['resident_bytes'] / 1e6:.0f} MB",
            "",
            f"below {TARGET_BYTES / 1e6:.0f} MB",
        ]
    )
    show(f"{CONNECTIONS} connections", ["what", "measured", "ratio", "target"], rows)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--bundle", default="demo", help="demo: the one in the package")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--requests", type=int, default=20_000, help="of a round with the trivial tail")
    made.add_argument("--seconds", type=float, default=8.0, help="about, of a round with the real tail")
    made.add_argument("--photos", type=int, default=256, help="of a round at 80 percent of the load")
    made.add_argument("--latency-rounds", type=int, default=9, help="of each kind of arrivals")
    made.add_argument("--memory-requests", type=int, default=100_000, help="by POST, and as many on streams")
    made.add_argument("--streams", type=int, default=1000, help="that are open and say nothing")
    run_script(made, run)


if __name__ == "__main__":
    main()
