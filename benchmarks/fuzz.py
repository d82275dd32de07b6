"""Does anything from outside make it crash, hang, take too much memory, or raise what it should not?

Coverage-guided inputs (atheris, which is libFuzzer) for whatever takes bytes from the network or from a file. Each has
to be taken, or refused with a BottleNetError of one short line, within 100 ms of the processor. What libFuzzer kept is
run once more without instrumentation, to measure time, and the memory that Python and numpy hold; with what compiled
code takes it may be a GiB of address space. A fault is kept as a file in fuzz_faults/.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bottlenet.errors import InputError
from fuzz_child import ALL, HEADROOM_BYTES, SLOW_MS, current, keep, targets
from record import Json, parser, run_script, show, write_record

IN_MEMORY = "/dev/shm"
FOLDERS = ("seeds", "corpus", "suspects", "faults")
REPLAY = 0.2  # of the time
ROUNDING = 1e-9
START_S = 900.0  # a child may need beside its time, on a busy machine
SLOWEST_LAST = ("entropy in Python", "entropy compiled")  # they get what time the others leave
COVERAGE = re.compile(rb"cov: (\d+)")


@dataclass(frozen=True)
class Found:
    """What came of one target."""

    target: str
    inputs: int
    seconds: float
    coverage: int  # of bottlenet's code, edges and values that libFuzzer tells apart
    replayed: int
    slowest_ms: float  # of those
    largest_bytes: int  # that Python and numpy held at once
    faults: tuple[str, ...]


def child(work: str, target: str, folder: Path, *options: str, seconds: float) -> tuple[int, dict[str, float]]:
    """Run a child; return its exit status and what it wrote, or nothing where it did not come so far."""
    script = Path(__file__).parent / "fuzz_child.py"
    command = [sys.executable, str(script), work, target, str(folder), "--seconds", str(seconds), *options]
    with open(folder / f"{work}.log", "wb") as log:
        try:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
            done = subprocess.run(
                command, stdout=log, stderr=log, timeout=seconds + START_S, check=False, env=environment
            )
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = -9
    written = folder / f"{work}.json"
    return status, json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}


def fuzz(target: str, inputs: int, seconds: float, seed: int) -> tuple[Found, dict[str, bytes]]:
    """Fuzz one target, and return the inputs that are faults."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None) as made:
        folder = Path(made)
        for name in FOLDERS:
            (folder / name).mkdir()
        options = ("--runs", str(inputs), "--seed", str(seed))
        fuzzed, taken = child("fuzz", target, folder, *options, seconds=seconds * (1 - REPLAY))
        replayed, measured = child("replay", target, folder, seconds=seconds * REPLAY)
        faults = [path.read_text(encoding="utf-8") for path in sorted((folder / "faults").glob("*.txt"))]
        if fuzzed != 0 and not any((folder / "faults").iterdir()):  # libFuzzer had no time to keep it
            keep(folder / "faults", current(folder))
        for work, status in (("fuzz", fuzzed), ("replay", replayed)):
            if status != 0:
                end = (folder / f"{work}.log").read_bytes()[-500:].decode("utf-8", "replace")
                faults.append(f"{work} ended with status {status}: {' '.join(end.split())}")
        seen = COVERAGE.findall((folder / "fuzz.log").read_bytes())
        kept = {path.name: path.read_bytes() for path in (folder / "faults").iterdir()}
    found = Found(
        target,
        int(taken.get("inputs", 0)),
        taken.get("seconds", 0.0),
        int(seen[-1]) if seen else 0,
        int(measured.get("inputs", 0)),
        measured.get("slowest_ms", 0.0),
        int(measured.get("largest_bytes", 0)),
        tuple(faults),
    )
    return found, kept


def fuzz_all(names: list[str], arguments: argparse.Namespace) -> list[Found]:
    """Fuzz target by target; what one leaves of time and inputs goes to the next. Starting does not count."""
    kept_in = arguments.out / "fuzz_faults"
    shutil.rmtree(kept_in, ignore_errors=True)
    found: list[Found] = []
    for number, name in enumerate(names):
        left = len(names) - number
        inputs = (arguments.inputs - sum(one.inputs for one in found)) // left
        seconds = (arguments.seconds - sum(one.seconds / (1 - REPLAY) for one in found)) / left
        one, faults = fuzz(name, max(inputs, 1), max(seconds, 1.0), arguments.seed)
        found.append(one)
        for file, data in faults.items():
            kept_in.mkdir(parents=True, exist_ok=True)
            (kept_in / f"{name.replace(' ', '_')}-{file}").write_bytes(data)
    return found


def is_enough(found: list[Found], inputs: int, seconds: float) -> bool:
    """Tell if as many inputs were run as were asked for, or for as long, replaying included."""
    taken_s = sum(one.seconds for one in found) / (1 - REPLAY)
    return sum(one.inputs for one in found) >= inputs or taken_s >= seconds * (1 - ROUNDING)


def run(arguments: argparse.Namespace) -> None:
    """Fuzz, show, write."""
    if importlib.util.find_spec("atheris") is None:
        raise InputError('atheris is not installed: pip install ".[dev]", on Linux with an x86-64 processor')
    names = sorted(targets(), key=lambda name: (name in SLOWEST_LAST, name))
    if unknown := set(arguments.target) - set(names):
        raise InputError(f"there is no target {min(unknown)!r}; give some of {', '.join(names)}")
    chosen = [ALL] if arguments.together else [name for name in names if name in (arguments.target or names)]
    started = time.monotonic()
    found = fuzz_all(chosen, arguments)
    inputs, faults = sum(one.inputs for one in found), sum(len(one.faults) for one in found)
    show(
        f"{inputs:,} inputs in {time.monotonic() - started:.0f} s: {faults} faults",
        ["target", "inputs", "coverage", "replayed", "slowest, ms", "most in Python and numpy, KB", "faults"],
        [
            [
                one.target,
                f"{one.inputs:,}",
                str(one.coverage),
                str(one.replayed),
                f"{one.slowest_ms:.1f}",
                f"{one.largest_bytes / 1e3:,.0f}",
                str(len(one.faults)),
            ]
            for one in found
        ],
    )
    results: dict[str, Json] = {
        "inputs": inputs,
        "seconds": time.monotonic() - started,
        "targets": [asdict(one) for one in found],
        "faults": faults,
        "slow_ms": SLOW_MS,
        "peak_bytes": {name: target.peak_bytes for name, target in targets().items()},
        "headroom_bytes": HEADROOM_BYTES,
        "asked": {"inputs": arguments.inputs, "seconds": arguments.seconds},
        "met": faults == 0 and is_enough(found, arguments.inputs, arguments.seconds),
    }
    write_record("fuzz", results, arguments.out)
    if faults:
        raise InputError(f"{faults} faults, the first: {next(f for one in found for f in one.faults)}")
    if not results["met"]:
        raise InputError(f"{inputs:,} inputs are neither as many nor took as long as was asked for")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    made.add_argument("--seconds", type=float, default=600.0, help="of all targets together")
    made.add_argument("--seed", type=int, default=1, help="for libFuzzer")
    made.add_argument("--target", action="append", default=[], help="only this; can be repeated")
    made.add_argument("--together", action="store_true", help="all targets in one process: for a short run")
    run_script(made, run)


if __name__ == "__main__":
    main()
