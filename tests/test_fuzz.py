"""What comes from outside is taken or refused, whatever it is: benchmarks/fuzz.py, shortened, and what it relies on."""

from __future__ import annotations

import importlib.util
import os
import random
import resource
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bottlenet.errors import InputError
from bottlenet.wire import entropy
from test_benchmarks import BENCHMARKS, load, record

SECONDS = 17


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(entropy, "LIBRARY", entropy.LIBRARY)  # which targets set as they want it
    return load("fuzz_child", monkeypatch)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
@pytest.mark.slow
def test_guided_by_coverage(tmp_path: Path) -> None:
    got = record("fuzz.py", "--together", "--seconds", str(SECONDS), out=tmp_path / "out")
    assert got["faults"] == 0
    (all_targets,) = got["targets"]
    assert all_targets["inputs"] > 200
    assert all_targets["coverage"] > 300
    assert all_targets["replayed"] > 50


def test_inputs_to_begin_with(child: ModuleType) -> None:
    """And what is near them: cut, damaged, doubled."""
    source = random.Random(1)
    for name, target in child.targets().items():
        for seed in target.seeds():
            damaged = bytearray(seed)
            for _ in range(3):
                damaged[source.randrange(len(damaged))] = source.randrange(256)
            cut = seed[: source.randrange(len(seed))]
            for data in (seed, bytes(damaged), cut, seed[:400] * 2, b""):
                assert child.fault_of(target, data) is None, (name, data)


def refuses(error: BaseException) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        if data:
            raise error

    return run


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (InputError("one line"), None),
        (InputError("two\nlines"), "a message that is not one short line: 'two\\nlines'"),
        (InputError("x" * 2000), "a message that is not one short line: '" + "x" * 100 + "'"),
        (ValueError("no"), "ValueError: no"),
        (MemoryError(), "MemoryError: "),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
)
def test_what_is_a_fault(child: ModuleType, error: BaseException, fault: str | None) -> None:
    target = child.Target(refuses(error), lambda: iter([b"x"]))
    assert child.fault_of(target, b"x") == fault
    assert child.fault_of(target, b"") is None


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (lambda data: None, None),
        (lambda data: bytes(2**24), "it takes 16777"),
        (lambda data: burn(0.15), "it takes 1"),
        (refuses(KeyError("k")), "KeyError: 'k'"),
    ],
    ids=["none", "memory", "time", "error"],
)
def test_what_replaying_finds(
    child: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    work: Callable[[bytes], object],
    fault: str | None,
) -> None:
    target = child.Target(work, lambda: iter([b"x"]))
    monkeypatch.setattr(child, "load", lambda name, instrument: target)
    for folder in ("seeds", "corpus", "suspects", "faults"):
        (tmp_path / folder).mkdir()
    child.keep(tmp_path / "corpus", b"x")
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(child.resource, "setrlimit", lambda *given: limits.append(given))  # this process goes on
    child.replay(Namespace(target="it", folder=tmp_path, seconds=5.0))
    faults = [path.read_text() for path in (tmp_path / "faults").glob("*.txt")]
    assert len(faults) == (fault is not None)
    assert all(one.startswith(str(fault)) for one in faults)
    ((which, (soft, hard)),) = limits
    assert which == resource.RLIMIT_AS
    assert soft == hard > child.HEADROOM_BYTES


WAITING = """
import sys, time
import fuzz_child
from fuzz_target import Target

clock, seconds = (time.process_time, 1.5) if sys.argv.pop() == "works" else (time.monotonic, 1.0)

def run(data):
    ends = clock() + seconds
    while clock() < ends:
        if clock is time.monotonic:
            time.sleep(0.1)

fuzz_child.HANG_S = 0.5
fuzz_child.load = lambda name, instrument: Target(run, lambda: iter([b"seed"]))
fuzz_child.main()
"""


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
@pytest.mark.parametrize(("does", "status"), [("works", -signal.SIGPROF), ("waits", 0)])
def test_a_hang_is_of_the_processor(child: ModuleType, tmp_path: Path, does: str, status: int) -> None:
    """A machine with other things to do makes none."""
    for folder in ("seeds", "corpus", "suspects", "faults"):
        (tmp_path / folder).mkdir()
    command = [sys.executable, "-c", WAITING, "fuzz", "it", str(tmp_path), "--runs", "2", "--seconds", "60", does]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": python_path()}, timeout=120
    )
    assert done.returncode == status, done.stderr
    assert (tmp_path / "fuzz.json").exists() == (status == 0)
    assert (" in run" in done.stderr) == (status != 0)
    assert child.current(tmp_path) in (b"", b"seed", b"\n")  # libFuzzer begins with the empty one


@pytest.mark.parametrize(
    ("ran", "seconds", "enough"),
    [((500, 500), (1.0, 1.0), True), ((10, 10), (40.0, 40.0), True), ((10, 10), (40.0, 39.0), False)],
    ids=["inputs", "seconds", "neither"],
)
def test_what_is_enough(
    monkeypatch: pytest.MonkeyPatch, ran: tuple[int, int], seconds: tuple[float, float], enough: bool
) -> None:
    """A fifth of the time is for replaying."""
    fuzz = load("fuzz", monkeypatch)
    found = [fuzz.Found("it", *each, 1, 1, 1.0, 1, ()) for each in zip(ran, seconds, strict=True)]
    assert fuzz.is_enough(found, 1000, 100.0) is enough


def python_path() -> str:
    return os.pathsep.join([str(BENCHMARKS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])


def burn(seconds: float) -> None:
    ends = time.process_time() + seconds
    while time.process_time() < ends:
        pass
