"""What a report is made of: files and folders of other commands, told apart by what is in them.

path --expand--> runs and JSON files --READERS--> Source, ...    all of one network, or InputError
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bottlenet.check import shown
from bottlenet.errors import InputError
from bottlenet.files import read_at_most
from bottlenet.lab.bench import Report
from bottlenet.lab.evaluate import Evaluation
from bottlenet.lab.report.logs import Run, read_run
from bottlenet.lab.report.sweeps import Sweep, parse_sweep
from bottlenet.lab.report.typed import read_json, typed
from bottlenet.plan.profile import MAX_PROFILE_BYTES, Profile, parse_profile

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
    origin = typed(Origin, {**asdict(Origin()), **rest}, "evaluation")
    return Evaluated(typed(Evaluation, result, "evaluation"), origin)


def read_profile(document: dict[str, Any], path: Path) -> Profile:
    """InputError: as `parse_profile`."""
    with open(path, "rb") as file:
        return parse_profile(read_at_most(file, MAX_PROFILE_BYTES + 1))


def read_bench(document: dict[str, Any], path: Path) -> Report:
    """InputError: as `parse_report`."""
    return parse_report({name: value for name, value in document.items() if name in REPORT_FIELDS})


def parse_report(values: object) -> Report:
    """InputError: not as `bottlenet bench` writes it."""
    report: Report = typed(Report, values, "bench")
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
