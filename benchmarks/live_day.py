"""A day on which link and server change, lived by a device that moves between partitions, and by one that knows it all.

    Phase: link, server --> Auto: photos one after the other, for so long --> Seen, ...
                     `----> every partition, a few photos --> what an oracle uses in this phase, and what it takes

The link is shaped, on loopback; the server is a process of its own, with other devices in its lines; the device is
scaled. See `measure.link`, `busy_server` and `measure.bench`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

from bottlenet.bundle import Bundle
from bottlenet.edge.auto import Auto, profile_of
from bottlenet.edge.connection import Stream, open_websocket
from bottlenet.edge.encoder import Partition, Processed, Side, partition_of, sides_of
from bottlenet.edge.pilot import Move, Policy, allowed
from bottlenet.errors import InputError
from bottlenet.measure.bench import pause, server_process
from bottlenet.measure.link import ShapedLink
from bottlenet.photo import Source
from bottlenet.plan.link import PRESETS, Link
from bottlenet.plan.profile import Profile
from bottlenet.wire.frame import STREAM_PATH, Frame

ORACLE_PHOTOS = 7  # of each partition in each phase; the first, with its connection, is not counted
OPEN_S = 60.0

Wrap = Callable[[str, Side], Side]
"""(a partition's name, what the device does) -> what this device does."""


@dataclass(frozen=True)
class Phase:
    """Some of the day."""

    name: str
    link: Link | None  # None: nothing gets through
    others: int = 0  # devices that always have a photo in each line of the server: it takes 1 + others times as long


@dataclass(frozen=True)
class Lived:
    """What a phase was like, ms."""

    name: str
    link: str | None
    others: int
    photos: int
    unanswered: int
    median_ms: float
    p95_ms: float
    partitions: dict[str, int]  # photos by what answered them
    moves: tuple[Move, ...]
    oracle: str  # what would have been best in all of it
    oracle_median_ms: float
    measured_ms: dict[str, float]  # of each partition: median


@dataclass(frozen=True)
class Day:
    """All of it."""

    phases: tuple[Lived, ...]
    photos: int
    unanswered: int
    median_ms: float
    oracle_median_ms: float  # of as many photos in each phase

    @property
    def excess(self) -> float:
        """How much longer than the oracle's, as a share."""
        return self.median_ms / self.oracle_median_ms - 1

    @property
    def most_moves(self) -> int:
        """In one phase."""
        return max(len(phase.moves) for phase in self.phases)


WIFI = PRESETS["wifi"]


def day_with(slow: Link) -> tuple[Phase, ...]:
    """Plan a day on which Wi-Fi falls to that link."""
    return (
        Phase("Wi-Fi", WIFI),
        Phase(slow.name, slow),
        Phase("no link", None),
        Phase("Wi-Fi again", WIFI),
        Phase("server at 4 times", WIFI, 3),
        Phase("server idle again", WIFI),
    )


DAY = day_with(PRESETS["3g"])


class World:
    """A link and a server that can be changed, and the connections over them."""

    def __init__(self, link: ShapedLink, load: Callable[[int], None]) -> None:
        self._link = link
        self._load = load

    def change(self, phase: Phase) -> None:
        """Change link and server from now on."""
        self._link.change(phase.link)
        self._load(phase.others)

    def stream(self, bundle: Bundle, opening_s: Callable[[], float]) -> Stream:
        """Open a stream as `Auto` wants it."""
        url = f"{self._link.url}{STREAM_PATH}?bundle={bundle.id.hex()}"
        return Stream(lambda: open_websocket(url, opening_s()))


@contextmanager
def busy_server(bundles: Sequence[Path]) -> Iterator[tuple[int, Callable[[int], None]]]:
    """Yield the port of `busy_server.py`, and a function that sets the number of other devices. LinkError: no start."""
    script = Path(__file__).with_name("busy_server.py")
    with server_process([str(script), *(str(bundle.resolve()) for bundle in bundles)]) as (port, process):

        def change(others: int) -> None:
            assert process.stdin is not None
            process.stdin.write(f"{others}\n")
            process.stdin.flush()

        yield port, change


@contextmanager
def real_world(bundles: Sequence[Bundle]) -> Iterator[World]:
    """Start a server process behind a shaped link. LinkError: it does not start."""
    with (
        busy_server([bundle.path for bundle in bundles]) as (port, load),
        ShapedLink("127.0.0.1", port, WIFI) as link,
    ):
        yield World(link, load)


def slower(slowdown: float) -> Wrap:
    """Slow a device down: this one, asleep meanwhile."""

    def wrap(name: str, side: Side) -> Side:
        def work(photo: Source, sequence: int) -> Processed:
            started, computed = perf_counter(), thread_time()
            made = side.work(photo, sequence)
            pause(slowdown, started, thread_time() - computed)
            times = (perf_counter() - started) / made.device_s
            return replace(
                made,
                prepare_ms=made.prepare_ms * times,
                compute_ms=made.compute_ms * times,
                encode_ms=made.encode_ms * times,
            )

        return replace(side, work=work) if slowdown != 1 else side

    return wrap


def live(
    bundles: Sequence[Bundle],
    profile: Profile | Sequence[Profile],
    paths: Sequence[Path],
    world: World,
    *,
    seconds: float,
    day: Sequence[Phase] = DAY,
    policy: Policy | None = None,
    wrap: Wrap | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Day:
    """Live the day, `seconds` of each phase, with photos from `paths` over and over, one after the other.

    InputError: no photos, no time, or as `Auto`. LinkError: a connection that should be there is not.
    """
    if not paths or not 0 < seconds < 1e6:
        raise InputError(f"{len(paths)} photos and {seconds} s a phase; give one at least, and a time above 0")
    wrap = wrap or slower(1.0)
    made = profile_of(bundles, profile)
    sides = usable(bundles, made, policy or Policy(), wrap)
    measured: list[dict[str, list[float]]] = []
    for done, phase in enumerate(day):
        world.change(phase)
        measured.append(oracle(sides, paths, world, phase))
        on_progress(done + 1, 2 * len(day))
    del sides  # with their networks, before others are opened
    lived: list[Lived] = []
    latencies: list[float] = []
    best: list[float] = []
    world.change(day[0])
    with closing(Auto(bundles, profile, world.stream, policy, wrap=wrap)) as auto:
        auto.connect()
        photos = cycle(paths)
        for done, (phase, times) in enumerate(zip(day, measured, strict=True)):
            world.change(phase)
            before = len(auto.moves)
            took, used = photos_for(auto, photos, seconds)
            lived.append(summarise(phase, took, used, auto.moves[before if done else 0 :], times))
            latencies += took
            best += islice(cycle(times[lived[-1].oracle]), len(took))
            on_progress(len(day) + done + 1, 2 * len(day))
    return Day(
        phases=tuple(lived),
        photos=len(latencies),
        unanswered=sum(phase.unanswered for phase in lived),
        median_ms=statistics.median(latencies) * 1e3,
        oracle_median_ms=statistics.median(best) * 1e3,
    )


def photos_for(auto: Auto, photos: Iterator[Path], seconds: float) -> tuple[list[float], list[str]]:
    """Return what each photo took, s, and what answered it; "" where nothing did."""
    took, used = [], []
    ends = perf_counter() + seconds
    while perf_counter() < ends:
        started = perf_counter()
        prediction = auto.classify(next(photos))
        took.append(perf_counter() - started)
        used.append(prediction.partition if prediction.top else "")
    return took, used


def usable(bundles: Sequence[Bundle], profile: Profile, policy: Policy, wrap: Wrap) -> dict[Partition, Side]:
    """List what the device does under each partition that the profile has and `policy` allows."""
    kept = [each for each, may in zip(profile.candidates, allowed(profile, policy.wish), strict=True) if may]
    sides = sides_of(bundles, [partition_of(each) for each in kept], budget_bytes=profile.budget_bytes)
    return {partition: wrap(partition.name, side) for partition, side in sides.items()}


def oracle(
    sides: Mapping[Partition, Side], paths: Sequence[Path], world: World, phase: Phase
) -> dict[str, list[float]]:
    """Measure each partition that this phase has, s, by its name."""
    times: dict[str, list[float]] = {}
    for partition, side in sides.items():
        if phase.link is None and partition.kind != "edge-only":
            continue
        with closing(world.stream(side.bundle, lambda: OPEN_S)) as stream:
            took = [one_photo(side.work, stream, path) for path in islice(cycle(paths), ORACLE_PHOTOS + 1)]
        times[partition.name] = took[1:]
    return times


def one_photo(work: Callable[[Source, int], Processed], stream: Stream, path: Path) -> float:
    """Return the seconds of one photo. LinkError: no answer."""
    started = perf_counter()
    processed = work(path, 0)
    if isinstance(processed.result, Frame):
        stream.ask(processed.result, OPEN_S)
    return perf_counter() - started


def summarise(
    phase: Phase, took: Sequence[float], used: Sequence[str], moves: Sequence[Move], times: dict[str, list[float]]
) -> Lived:
    """Summarise one phase."""
    medians = {name: statistics.median(each) * 1e3 for name, each in times.items()}
    best = min(medians, key=lambda name: medians[name])
    return Lived(
        name=phase.name,
        link=None if phase.link is None else phase.link.name,
        others=phase.others,
        photos=len(took),
        unanswered=sum(not name for name in used),
        median_ms=statistics.median(took) * 1e3,
        p95_ms=float(np.percentile(took, 95, method="inverted_cdf")) * 1e3,
        partitions=dict(Counter(used)),
        moves=tuple(moves),
        oracle=best,
        oracle_median_ms=medians[best],
        measured_ms=medians,
    )
