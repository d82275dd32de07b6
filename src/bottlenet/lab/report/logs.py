"""A run's folder, as `lab/runs.py` writes it, read without torch: what it was told, its log, and what it held out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottlenet.check import shown
from bottlenet.errors import InputError
from bottlenet.lab.commands import without_root
from bottlenet.lab.report.typed import MOST_ITEMS, is_number, parse_json, read_json

RUN, LOG = "run.json", "log.jsonl"
MAX_RUN_BYTES = 2**20
MAX_LOG_BYTES = 2**26
MOST_STEPS = 400  # that are drawn: more than pixels
FOLDERS = ("data", "out", "cache")
STEP = ("steps", "loss", "distillation", "payload_bytes")
PASS = ("distillation", "agreement", "payload_bytes")

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Step:
    """A line of the log: means since the line before."""

    steps: float
    loss: float
    distillation: float
    payload_bytes: float


@dataclass(frozen=True)
class Pass:
    """What held-out photos gave after a pass, at one budget."""

    epoch: int
    budget: float | None  # bytes; None: whole payloads
    distillation: float
    agreement: float  # with the uncut network, 0..1
    payload_bytes: float


@dataclass(frozen=True)
class Run:
    """One training run."""

    config: dict[str, Any]
    passes: tuple[Pass, ...]
    steps: tuple[Step, ...]  # at most MOST_STEPS, evenly spread

    @property
    def command(self) -> str:
        """`bottlenet train` with everything that it was told, folders without their places."""
        parts = ["bottlenet", "train"]
        for name, value in self.config.items():
            flag = "--" + name.replace("_", "-")
            if name in FOLDERS:
                parts += [f"{flag} {shlex.quote(without_root(str(each)))}" for each in listed(value)]
            elif value is True:
                parts.append(flag)
            elif value is not False and value != "":
                parts.append(f"{flag} {shlex.quote(str(value))}")
        return " ".join(parts)


def listed(value: object) -> list[object]:
    """A folder, or folders."""
    return value if isinstance(value, list) else [value]


def read_run(path: Path) -> Run:
    """InputError: its files can't be read, or are not a run's. A run without a log has only begun."""
    config = read_json(path / RUN, MAX_RUN_BYTES)
    if (
        not isinstance(config, dict)
        or not {"model", "cut", "codec"} <= set(config)
        or not all(map(plain, config.items()))
    ):
        raise InputError(f"{path / RUN}: it is {shown(config)}, which no run was told; give the folder of a run")
    passes: list[Pass] = []
    steps: list[Step] = []
    for number, line in enumerate(log_lines(path / LOG), 1):
        where = f"{path / LOG}, line {number}"
        if "held_out" in line:
            passes += parse_passes(line["held_out"], line.get("epoch"), where)
        else:
            steps.append(Step(**numbers(line, STEP, where)))
    every = max(1, -(-len(steps) // MOST_STEPS))
    return Run(config, tuple(passes), tuple(steps[::every]))


def plain(item: tuple[str, object]) -> bool:
    """Whether a setting is what `TrainConfig` can hold."""
    name, value = item
    return isinstance(value, Scalar) or (name == "data" and isinstance(value, list))


def log_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Its objects; the last line may be half of one, where the run was killed. InputError: anything else."""
    if not path.exists():
        return
    try:
        if path.stat().st_size > MAX_LOG_BYTES:
            raise InputError(f"{path}: it has more than the {MAX_LOG_BYTES:,} bytes that are allowed; give another run")
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({error}); give another run") from error
    for number, line in enumerate(lines[:-1], 1):  # what is behind the last line's end is not whole
        try:
            made = parse_json(line)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        if not isinstance(made, dict):
            raise InputError(f"{path}, line {number}: it is {shown(made)}; give the folder of a run")
        yield made


def parse_passes(rows: object, epoch: object, where: str) -> list[Pass]:
    """What is behind `held_out`, or in a record of benchmarks/training.py. InputError: something else."""
    if not isinstance(rows, list) or len(rows) > MOST_ITEMS or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{where}: held_out is {shown(rows)}; give the folder of a run")
    made = []
    for row in rows:
        at = row.get("epoch", epoch)
        budget = row.get("budget")
        if not isinstance(at, int) or not (budget is None or is_number(budget)):
            raise InputError(f"{where}: epoch {shown(at)}, budget {shown(budget)}: give numbers")
        if row.get("photos") != 0:  # too few for any to be held out
            made.append(Pass(at, budget, **numbers(row, PASS, where)))
    return made


def numbers(row: dict[str, Any], names: tuple[str, ...], where: str) -> dict[str, float]:
    """InputError: one of them is none."""
    for name in names:
        if not is_number(row.get(name)):
            raise InputError(f"{where}: {name} is {shown(row.get(name))}; a number is needed: is it a run's log?")
    return {name: row[name] for name in names}
