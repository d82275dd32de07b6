"""One target of fuzz.py, in a process of its own, which may crash, hang or run out of memory.

    fuzz      inputs by libFuzzer, guided by the coverage of bottlenet's code        -> corpus, suspects, faults
    replay    corpus and suspects once more, without instrumentation, and measured   -> faults

FOLDER/seeds, corpus, suspects, faults; current, the input that is at work; and what came of it: fuzz.json, replay.json.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from bottlenet.errors import BottleNetError
from fuzz_target import Target

ALL = "all"
SLOW_MS = 100.0  # of the processor, for one input
# Of address space, above what the process has when it is ready. The fuzzer's own tables grow with its corpus; what one
# input takes of Python's and numpy's memory is measured in `replay`, without it.
HEADROOM_BYTES = 2**30
TIMES = 3  # that a slow input is run again
LONGEST_MESSAGE = 1000  # characters
MAX_SUSPECTS = 200
HANG_S = 20.0  # of the processor, and with instrumentation: then a signal ends the process
# libFuzzer's own are by the clock, which on a busy machine says nothing.
NO_CLOCK = ("-timeout=1000000", "-report_slow_units=1000000")
LOOK_EVERY = 64  # inputs, for the time
CURRENT = "current"
LENGTH_BYTES = 8  # of the input, before it


def targets() -> dict[str, Target]:
    """List all targets by name."""
    wire, documents = (importlib.import_module(each) for each in ("fuzz_wire", "fuzz_documents"))
    return {**wire.targets(), **documents.TARGETS}


def load(name: str, *, instrument: bool) -> Target:
    """Load the target, with bottlenet's modules instrumented if asked for. With `ALL` the first byte chooses one."""
    if instrument:
        import atheris

        watched = atheris.instrument_imports(include=["bottlenet"], enable_loader_override=False)
    with watched if instrument else nullcontext():
        found = targets()
    if name != ALL:
        return found[name]
    chosen = list(found.values())

    def run(data: bytes) -> None:
        chosen[data[0] % len(chosen) if data else 0].run(data[1:])

    def seeds() -> Iterator[bytes]:
        for number, target in enumerate(chosen):
            yield from (bytes([number]) + seed for seed in target.seeds())

    return Target(run, seeds, 1 + max(target.longest_bytes for target in chosen), 2**25)


def fault_of(target: Target, data: bytes) -> str | None:
    """Say what is wrong with how an input is treated; None: nothing."""
    try:
        target.run(data)
    except BottleNetError as error:
        text = str(error)
        if not text.isprintable() or len(text) > LONGEST_MESSAGE:
            return f"a message that is not one short line: {text[:100]!a}"
    except BaseException as error:  # MemoryError too, and what compiled code panics with
        return f"{type(error).__name__}: {error}"[:300]
    return None


class Fuzzed:
    """Counts inputs, looks at each, and ends the process when it is time. Called by libFuzzer."""

    def __init__(self, target: Target, folder: Path, runs: int, seconds: float) -> None:
        self._target, self._folder, self._runs = target, folder, runs
        self._inputs = self._suspects = 0
        self._slowest_ms = 0.0
        self._started = time.monotonic()
        self._ends = self._started + seconds
        self._current = os.open(folder / CURRENT, os.O_WRONLY | os.O_CREAT)

    def __call__(self, data: bytes) -> None:
        """Run one input."""
        os.pwrite(self._current, len(data).to_bytes(LENGTH_BYTES, "big") + data, 0)
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        started = time.process_time_ns()
        fault = fault_of(self._target, data)
        taken_ms = (time.process_time_ns() - started) / 1e6
        self._inputs += 1
        self._slowest_ms = max(self._slowest_ms, taken_ms)
        if taken_ms > SLOW_MS and self._suspects < MAX_SUSPECTS:  # instrumentation may be to blame: replay tells
            self._suspects += 1
            keep(self._folder / "suspects", data)
        if fault is not None:
            keep_fault(self._folder, fault, data)
            self._end()
        if self._inputs >= self._runs or (self._inputs % LOOK_EVERY == 0 and time.monotonic() > self._ends):
            self._end()

    def _end(self) -> NoReturn:
        """End the process: libFuzzer would never return."""
        taken = {"inputs": self._inputs, "seconds": time.monotonic() - self._started}
        document = {**taken, "slowest_instrumented_ms": self._slowest_ms}
        (self._folder / "fuzz.json").write_text(json.dumps(document))
        sys.stderr.flush()
        os._exit(0)


def keep(folder: Path, data: bytes) -> str:
    """Under the start of its hash."""
    name = hashlib.sha256(data).hexdigest()[:16]
    (folder / name).write_bytes(data)
    return name


def current(folder: Path) -> bytes:
    """Read the input at which the fuzzing process was when it ended."""
    written = (folder / CURRENT).read_bytes() if (folder / CURRENT).exists() else b""
    return written[LENGTH_BYTES:][: int.from_bytes(written[:LENGTH_BYTES], "big")]


def keep_fault(folder: Path, fault: str, data: bytes) -> None:
    """Keep the input, and beside it what is wrong."""
    name = keep(folder / "faults", data)
    (folder / "faults" / f"{name}.txt").write_text(fault)


def fuzz(arguments: argparse.Namespace) -> None:
    """Until its time or number of inputs is over."""
    import atheris

    target = load(arguments.target, instrument=True)
    for data in target.seeds():
        assert len(data) <= target.longest_bytes
        keep(arguments.folder / "seeds", data)
        fault_of(target, data)  # makes what is made once: tables, imports
    limit_memory()
    faulthandler.register(signal.SIGPROF, all_threads=False, chain=True)  # says where, and lets it end the process
    options = [f"-max_len={target.longest_bytes}", f"-seed={arguments.seed}", *NO_CLOCK, "-rss_limit_mb=0"]
    options += [f"-artifact_prefix={arguments.folder}/faults/", "-entropic_scale_per_exec_time=1"]
    folders = [str(arguments.folder / name) for name in ("corpus", "seeds")]
    atheris.Setup(
        [sys.argv[0], *options, *folders], Fuzzed(target, arguments.folder, arguments.runs, arguments.seconds)
    )
    atheris.Fuzz()


def limit_memory() -> None:
    """Limit what the process, compiled code included, may allocate from now on."""
    size = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM_BYTES,) * 2)


def replay(arguments: argparse.Namespace) -> None:
    """Run suspects first; then the corpus and the seeds, as far as the time goes."""
    target = load(arguments.target, instrument=False)
    for data in target.seeds():
        fault_of(target, data)
    limit_memory()
    ends = time.monotonic() + arguments.seconds
    inputs, slowest_ms, largest_bytes = 0, 0.0, 0
    for data in kept(arguments.folder):
        if inputs and time.monotonic() > ends:
            break
        inputs += 1
        taken_ms, fault = min_ms(target, data)
        held_bytes = peak_bytes(target, data)
        slowest_ms, largest_bytes = max(slowest_ms, taken_ms), max(largest_bytes, held_bytes)
        if fault is None and taken_ms > SLOW_MS:
            fault = f"it takes {taken_ms:.0f} ms"
        if fault is None and held_bytes > target.peak_bytes:
            fault = f"it takes {held_bytes} bytes"
        if fault is not None:
            keep_fault(arguments.folder, fault, data)
    document = {"inputs": inputs, "slowest_ms": slowest_ms, "largest_bytes": largest_bytes}
    (arguments.folder / "replay.json").write_text(json.dumps(document))


def kept(folder: Path) -> Iterator[bytes]:
    """Read what was found."""
    for name in ("suspects", "seeds", "corpus"):
        for path in sorted((folder / name).iterdir()):
            yield path.read_bytes()


def min_ms(target: Target, data: bytes) -> tuple[float, str | None]:
    """Return processor milliseconds, the least of some where the first are too many, and what is wrong."""
    least_ms, fault = float("inf"), None
    for _ in range(TIMES):
        started = time.process_time_ns()
        fault = fault_of(target, data)
        least_ms = min(least_ms, (time.process_time_ns() - started) / 1e6)
        if least_ms <= SLOW_MS:
            break
    return least_ms, fault


def peak_bytes(target: Target, data: bytes) -> int:
    """Measure what Python and numpy held at most; compiled code is bounded by `limit_memory`."""
    tracemalloc.start()
    try:
        fault_of(target, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("work", choices=("fuzz", "replay"))
    made.add_argument("target")
    made.add_argument("folder", type=Path)
    made.add_argument("--runs", type=int, default=1)
    made.add_argument("--seconds", type=float, default=1.0)
    made.add_argument("--seed", type=int, default=1)
    arguments = made.parse_args()
    (fuzz if arguments.work == "fuzz" else replay)(arguments)


if __name__ == "__main__":
    main()
