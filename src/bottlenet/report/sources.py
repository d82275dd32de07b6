"""What a report is made of: files and folders of other commands, told apart by what is in them.

path --expand--> runs and JSON files --READERS--> Source, ...    all of one network, or InputError

Bytes against accuracy: which points of many settings count, and what lies between them.

JSON from anywhere -> frozen dataclasses: every field there, of its type, and no other.

A run's folder, as `train/runs.py` writes it, read without torch: what it was told, its log, and what it held out.

A sweep's candidates.json: every trial, what was kept, and what was skipped and why.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from bottlenet.errors import InputError
from bottlenet.files import read_at_most
from bottlenet.measure.bench import Report
from bottlenet.measure.evaluate import Evaluation
from bottlenet.plan.profile import MAX_PROFILE_BYTES, Profile, parse_profile
from bottlenet.records import check_number, check_text, convert, shown, without_root
from bottlenet.report.charts import Axis, Rule, Series, line_chart, spanning
from bottlenet.report.sections import Figure, Table, number, quoted
from bottlenet.train.sweep.folder import parse_figures
from bottlenet.train.sweep.grid import Figures, Trial


@dataclass(frozen=True)
class Point:
    """One setting: mean bytes and top-1 in percent."""

    bytes: float
    top1: float
    name: str


@dataclass(frozen=True)
class Needed:
    """Bytes for an accuracy, and the settings it lies between."""

    bytes: float | None  # None: the accuracy is outside of what the settings span
    between: tuple[str, ...]


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both bytes and top-1, from few bytes to many."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, -p.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


def bytes_needed(points: Sequence[Point], top1: float) -> Needed:
    """Bytes at `top1` on the front, linear in log bytes between its points.

    Nothing is guessed beyond its ends: below the lowest the answer would flatter, above the highest there is none.
    """
    line = front(points)
    for low, high in pairwise(line):
        if low.top1 <= top1 <= high.top1:
            share = (top1 - low.top1) / (high.top1 - low.top1)
            log = math.log(low.bytes) + share * (math.log(high.bytes) - math.log(low.bytes))
            return Needed(math.exp(log), (low.name, high.name))
    return Needed(None, ())


MOST_ITEMS = 100_000  # of a list
LARGEST = 1e300
AGAIN = "make the file again with this version of bottlenet"


def read_json(path: Path, limit_bytes: int) -> Any:
    """What a file says. InputError: can't be read, larger than that, no JSON, or a number that is none."""
    try:
        with open(path, "rb") as file:
            data = read_at_most(file, limit_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}; give another file") from error
    if len(data) > limit_bytes:
        raise InputError(f"{path}: it has more than the {limit_bytes:,} bytes that are allowed; give another file")
    try:
        return parse_json(data.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: it is no text in UTF-8, so no JSON; give another file") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_json(text: str) -> Any:
    """InputError: no JSON, nested too deeply, or NaN and its like in it."""

    def refused(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(text, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({' '.join(str(error).split()):.100}); give another file") from error


def is_number(value: object) -> bool:
    """Whether it is one, and finite."""
    return not isinstance(value, bool) and isinstance(value, int | float) and -LARGEST < value < LARGEST


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
    for count, line in enumerate(log_lines(path / LOG), 1):
        where = f"{path / LOG}, line {count}"
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
    for count, line in enumerate(lines[:-1], 1):  # what is behind the last line's end is not whole
        try:
            made = parse_json(line)
        except InputError as error:
            raise InputError(f"{path}, line {count}: {error}") from error
        if not isinstance(made, dict):
            raise InputError(f"{path}, line {count}: it is {shown(made)}; give the folder of a run")
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


KEPT = "kept"
LISTS = ("cuts", "channels", "strides", "qualities")
MOST_ROWS = 200


@dataclass(frozen=True)
class Tried:
    """One trial of a sweep."""

    trial: Trial
    status: str  # in words: kept, loses too much, skipped and why, ...
    figures: Figures | None  # None: it did not run
    evaluated: Figures | None  # on the folder that was given for that


@dataclass(frozen=True)
class Sweep:
    """All trials, and the bound."""

    model: str
    max_drop: float  # points
    trials: tuple[Tried, ...]
    command: str

    @property
    def cuts(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(each.trial.cut for each in self.trials))

    def of_cut(self, cut: str) -> list[tuple[Point, Tried]]:
        """Those that ran, as points: bytes, and points of top-1 against the uncut network."""
        return [
            (Point(each.figures.payload_bytes.mean, -each.figures.top1_drop, each.trial.name), each)
            for each in self.trials
            if each.trial.cut == cut and each.figures is not None and each.figures.payload_bytes.mean > 0
        ]


def parse_sweep(document: dict[str, Any]) -> Sweep:
    """InputError: not as `bottlenet sweep` writes it."""
    model, search, rows = document.get("model"), document.get("search"), document.get("trials")
    check_text("model", model)
    if not isinstance(search, dict) or not isinstance(rows, list) or len(rows) > MOST_ITEMS:
        raise InputError(f"its search is {shown(search)} and its trials are {shown(rows)}; {AGAIN}")
    check_number("max_drop", search.get("max_drop"), -100, 100)
    trials = tuple(parse_tried(row) for row in rows)
    return Sweep(str(model), search["max_drop"], trials, command_of(document))


def parse_tried(row: object) -> Tried:
    """InputError: no trial."""
    if not isinstance(row, dict):
        raise InputError(f"a trial is {shown(row)}; {AGAIN}")
    names = [field.name for field in fields(Trial)]
    trial = convert(Trial, {name: row[name] for name in names if name in row}, AGAIN)
    status = row.get("status")
    check_text("status", status, 1000)
    found = [None if row.get(name) is None else finite_figures(row[name]) for name in ("figures", "evaluated")]
    return Tried(trial, str(status), *found)


def finite_figures(values: object) -> Figures:
    """InputError: as `parse_figures`, or a number that JSON can spell and nobody can draw."""
    figures = parse_figures(values)
    if not is_number(figures.payload_bytes.mean) or not is_number(figures.top1_drop):
        raise InputError(f"figures: {figures.payload_bytes.mean} bytes, drop {figures.top1_drop}; {AGAIN}")
    return figures


def command_of(document: dict[str, Any]) -> str:
    """`bottlenet sweep`, as far as the file says what it was told."""
    search, config = document["search"], document.get("config")
    parts = ["bottlenet", "sweep", shlex.quote(str(document["model"]))]
    folders = config.get("data") if isinstance(config, dict) else None
    for folder in folders if isinstance(folders, list) else ["DIR"]:
        parts += ["--data", shlex.quote(without_root(str(folder)))]
    for name in LISTS:
        if isinstance(search.get(name), list):
            parts += [f"--{name}", shlex.quote(",".join(map(str, search[name])))]
    return " ".join([*parts, "--max-drop", f"{search['max_drop']:g}"])


def sweep_figure(name: str, sweep: Sweep, command: str) -> Figure | None:
    """A line a cut; None: nothing ran."""
    found = {cut: sweep.of_cut(cut) for cut in sweep.cuts}
    points = [point for rows in found.values() for point, _ in rows]
    if not points:
        return None
    series = []
    for cut, rows in found.items():
        line = front([point for point, _ in rows])
        kept = {point for point, tried in rows if tried.status == KEPT}
        notes = tuple("kept" if point in kept else "" for point in line)
        series.append(Series(cut, tuple((point.bytes, point.top1) for point in line), notes))
    x = Axis("mean payload bytes a photo", spanning([point.bytes for point in points], log=True, margin=0.04))
    y = Axis("against uncut, points", spanning([*(point.top1 for point in points), 0.0, -sweep.max_drop], margin=0.06))
    bound = Rule(-sweep.max_drop, f"the bound, {sweep.max_drop:g} points", upright=False)
    title = f"A sweep, cut by cut: {quoted(name)}"
    kept_words = "; ".join(
        f"{tried.trial.name}, {point.bytes:,.0f} bytes, {-point.top1:.1f} points lost"
        for rows in found.values()
        for point, tried in rows
        if tried.status == KEPT
    )
    drawing = line_chart(title, f"Kept: {kept_words or 'nothing'}.", series, x, y, rules=[bound])
    note = "Each line is what no other trial of its cut beats; of each cut the smallest within the bound is kept."
    return Figure(title, drawing, sweep_table(sweep), command, note)


def sweep_table(sweep: Sweep) -> Table:
    """Every trial, those that were skipped too."""
    columns = ("trial", "bytes", "points lost", "of", "bytes, evaluated", "points lost", "what became of it")
    rows = tuple(
        (each.trial.name, *cells(each.figures), kind(each.figures), *cells(each.evaluated), each.status)
        for each in sweep.trials[:MOST_ROWS]
    )
    hidden = len(sweep.trials) - len(rows)
    more = f"; {hidden} more are left out" if hidden else ""
    return Table(f"All {len(sweep.trials)} trials{more}", columns, rows, numeric=False)


def cells(figures: Figures | None) -> Sequence[str]:
    """Bytes and drop."""
    return ("-", "-") if figures is None else (number(figures.payload_bytes.mean), number(figures.top1_drop, 1))


def kind(figures: Figures | None) -> str:
    """What the drop is of."""
    return "" if figures is None else figures.drop_of


MAX_JSON_BYTES = 2**24
MAX_SOURCES = 200
RUN, CANDIDATES = "run.json", "candidates.json"  # in the folder of a run, of a sweep
RUNS_DEPTH = 3  # folders below the one that was given
KNOWN = "the folder of a run or a sweep, or the JSON of bottlenet evaluate, profile or bench, or a record of benchmarks"
RECORD = {"command", "commit", "date", "machine", "results"}
BENCH, EVALUATE, SWEEP = "bottlenet bench", "bottlenet evaluate", "bottlenet sweep"  # `kind` in their documents


@dataclass(frozen=True)
class Origin:
    """What an evaluation is of; empty where its file does not say."""

    bundle: str = ""  # id, hex
    name: str = ""  # of the bundle
    model: str = ""
    cut: str = ""
    budget_bytes: int | None = None  # that was asked for


@dataclass(frozen=True)
class Evaluated:
    """What `bottlenet evaluate --json` says."""

    result: Evaluation
    origin: Origin


@dataclass(frozen=True)
class Record:
    """A record of `benchmarks/`: results are whatever its script measured."""

    commit: str
    date: str
    machine: str  # in words
    results: Any

    @property
    def model(self) -> str:
        """Of which network it is; empty: it does not say."""
        places = [self.results, self.results.get("config")] if isinstance(self.results, dict) else []
        found = [place.get("model") for place in places if isinstance(place, dict)]
        return next((each for each in found if isinstance(each, str)), "")


Content = Run | Evaluated | Profile | Report | Record | Sweep


@dataclass(frozen=True)
class Source:
    """One of what was given."""

    path: Path
    kind: str  # a key of COMMANDS
    content: Content
    command: str  # that made it; in capitals what the file does not say
    model: str  # the network; empty: it does not say

    @property
    def name(self) -> str:
        """For people."""
        path = self.path.parent if self.path.name == CANDIDATES else self.path
        return path.name.removesuffix(".json")


def read_sources(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Every source of these paths, in their order.

    InputError: a path that is none, a folder without any, too many, or networks that are mixed.
    """
    sources = tuple(source for path in paths for source in expand(path))
    if len(sources) > MAX_SOURCES:
        raise InputError(f"{len(sources)} sources are given; {MAX_SOURCES} fit a report: make several")
    # Records have figures of their own, and are compared with nothing but their own network's.
    networks = {source.model: source for source in reversed(sources) if source.model and source.kind != "record"}
    if len(networks) > 1:
        one, other = sorted(networks.values(), key=sources.index)[:2]
        raise InputError(
            f"{one.path} is of the network {shown(one.model)} and {other.path} of {shown(other.model)}, which can't be "
            "compared; make a report for each"
        )
    return sources


def expand(path: Path) -> Iterator[Source]:
    """A file, a run, or what a folder holds. InputError: there is none in it."""
    if not path.is_dir():
        yield read_file(path)
        return
    if (path / RUN).is_file():
        yield read_run_source(path)
        return
    if (path / CANDIDATES).is_file():  # a sweep's runs say less than it does
        yield read_file(path / CANDIDATES)
        return
    runs = [run.parent for depth in range(1, RUNS_DEPTH + 1) for run in sorted(path.glob("*/" * depth + RUN))]
    if len(runs) > MAX_SOURCES:
        raise InputError(f"{path}: {len(runs)} runs are in it; {MAX_SOURCES} fit a report: give some of them")
    found = [read_run_source(run) for run in runs]
    for file in sorted(path.glob("*.json"))[:MAX_SOURCES]:
        document = read_json(file, MAX_JSON_BYTES)
        if kind_of(document) is not None:
            found.append(read_file(file))
    if not found:
        raise InputError(f"{path}: nothing in it that a report is made of; give {KNOWN}")
    yield from found


def read_run_source(path: Path) -> Source:
    """InputError: it can't be read."""
    run = read_run(path)
    return Source(path, "run", run, run.command, str(run.config.get("model", "")))


def read_file(path: Path) -> Source:
    """InputError: can't be read, of no kind that is known, or not as its kind is."""
    document = read_json(path, MAX_JSON_BYTES)
    kind = kind_of(document)
    if kind is None:
        what = f"its fields are {shown(', '.join(document))}" if isinstance(document, dict) else "it is no object"
        raise InputError(f"{path}: it is JSON that no report is made of ({what}); give {KNOWN}")
    try:
        content = READERS[kind](document, path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    whose = content.origin if isinstance(content, Evaluated) else content
    command = content.command if isinstance(content, Sweep) else document.get("command")
    if not command or not isinstance(command, str):
        command = COMMANDS[kind].format(name=path.name)
    return Source(path, kind, content, command, whose.model)


def kind_of(document: object) -> str | None:
    """A key of READERS; None: something else."""
    if not isinstance(document, dict):
        return None
    if document.get("kind") == BENCH:
        return "bench"
    if document.get("kind") == SWEEP:
        return "sweep"
    if document.get("kind") == EVALUATE or {"top1", "payload_bytes", "agreement"} <= set(document):
        return "evaluation"
    if {"format_version", "candidates"} <= set(document):
        return "profile"
    return "record" if set(document) == RECORD else None


def read_evaluation(document: dict[str, Any], path: Path) -> Evaluated:
    """InputError: as `typed`."""
    names = {field.name for field in fields(Evaluation)}
    result = {name: value for name, value in document.items() if name in names}
    rest = {name: value for name, value in document.items() if name not in names | OUTSIDE}
    origin = convert(Origin, {**asdict(Origin()), **rest}, AGAIN)
    return Evaluated(convert(Evaluation, result, AGAIN), origin)


def read_profile(document: dict[str, Any], path: Path) -> Profile:
    """InputError: as `parse_profile`."""
    with open(path, "rb") as file:
        return parse_profile(read_at_most(file, MAX_PROFILE_BYTES + 1))


def read_bench(document: dict[str, Any], path: Path) -> Report:
    """InputError: as `parse_report`."""
    return parse_report({name: value for name, value in document.items() if name in REPORT_FIELDS})


def parse_report(values: object) -> Report:
    """InputError: not as `bottlenet bench` writes it."""
    report: Report = convert(Report, values, AGAIN)
    if not report.conditions or not report.rows or len(report.rows) % len(report.conditions):
        raise InputError(
            f"bench: {len(report.rows)} rows for {len(report.conditions)} links; make it again with bottlenet bench"
        )
    return report


def read_record(document: dict[str, Any], path: Path) -> Record:
    """InputError: not as a benchmark writes it."""
    words = {name: document[name] for name in ("commit", "date")}
    for name, value in words.items():
        if not isinstance(value, str):
            raise InputError(f"{name} is {shown(value)}; make the record again with its benchmark")
    machine = document["machine"]
    parts = [f"{value}" for value in machine.values() if isinstance(value, str)] if isinstance(machine, dict) else []
    return Record(**words, machine=", ".join(parts), results=document["results"])


OUTSIDE = {"kind", "format_version", "command"}  # of what was measured
REPORT_FIELDS = {field.name for field in fields(Report)}
READERS: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "evaluation": read_evaluation,
    "profile": read_profile,
    "bench": read_bench,
    "record": read_record,
    "sweep": lambda document, path: parse_sweep(document),
}
COMMANDS = {
    "evaluation": "bottlenet evaluate BUNDLE --data DIR --json > {name}",
    "profile": "bottlenet profile BUNDLE --data DIR -o {name}",
    "bench": "bottlenet bench BUNDLE --data DIR -o {name}",
    "record": "python benchmarks/SCRIPT",
}
