"""Read what a report is made of: files and folders of other commands, told apart by what is in them. No torch.

    path --expand--> runs and JSON files --READERS--> Source, ...    all of one network, or InputError

A run is the folder that `train/runs.py` writes; a sweep's candidates.json has every trial, what was kept, and what was
skipped and why; a record of `benchmarks/` holds whatever its script measured. A file *.jsonl has the lines of
`bottlenet watch --json`, and is a source for each camera in it.
"""

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from itertools import pairwise
from operator import itemgetter, lt
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from bottlenet.edge.prediction import LOCAL, MAX_NAME_BYTES
from bottlenet.errors import InputError
from bottlenet.files import read_bounded, reading
from bottlenet.measure.bench import BenchReport
from bottlenet.measure.evaluate import Evaluation
from bottlenet.plan.profile import Profile, parse_profile
from bottlenet.records import Count, Number, check_number, check_text, convert, record, shown, without_root
from bottlenet.train.sweep import Figures, Search, SweepConfig, Trial

MAX_JSON_BYTES = 2**24
MAX_RUN_BYTES = 2**20
MAX_LOG_BYTES = 2**26
MAX_SOURCES = 200
MOST_STEPS = 400  # that are drawn: more than pixels
RUN, LOG, CANDIDATES = "run.json", "log.jsonl", "candidates.json"  # in the folder of a run, of a sweep
RUNS_DEPTH = 3  # folders below the one that was given
LINES = ".jsonl"
KNOWN = (
    "the folder of a run or a sweep, the JSON of bottlenet evaluate, profile or bench, a record of benchmarks, "
    "or lines of bottlenet watch --json in a file *.jsonl"
)
WATCHED = "the lines of bottlenet watch --json"
RECORD = {"command", "commit", "date", "machine", "results"}
BENCH, EVALUATE, SWEEP = "bottlenet bench", "bottlenet evaluate", "bottlenet sweep"  # `kind` in their documents
OUTSIDE = {"kind", "format_version", "command"}  # of what was measured
FOLDERS = ("data", "out", "cache")
KEPT = "kept"
SWEPT = ("cuts", "channels", "strides", "qualities")
LARGEST = 1e300

T = TypeVar("T")
Scalar = str | int | float | bool
Drawable = Annotated[Number, Field(gt=-LARGEST, lt=LARGEST)]


@dataclass(frozen=True)
class Point:
    """One setting: mean bytes and top-1 in percent."""

    bytes: float
    top1: float
    name: str


def front(points: Sequence[Point]) -> list[Point]:
    """Keep the points that no other beats in both bytes and top-1, from few bytes to many."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, -p.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


@record
class Step:
    """A line of a run's log: means since the line before."""

    steps: Drawable
    loss: Drawable
    distillation: Drawable
    payload_bytes: Drawable


@record
class Pass:
    """What held-out photos gave after a pass, at one budget."""

    epoch: int
    budget: Drawable | None  # bytes; None: whole payloads
    distillation: Drawable
    agreement: Drawable  # with the uncut network, 0..1
    payload_bytes: Drawable
    photos: int | None = None  # that were held out; None: the log does not say


@dataclass(frozen=True)
class Run:
    """One training run."""

    config: dict[str, Any]
    passes: tuple[Pass, ...]
    steps: tuple[Step, ...]  # at most MOST_STEPS, evenly spread

    @property
    def command(self) -> str:
        """`bottlenet train` with all of its options, folders without their places."""
        return " ".join(["bottlenet", "train", *options_of(self.config)])


@record
class Tried:
    """One trial of a sweep."""

    trial: Trial
    status: Annotated[str, Field(max_length=1000)]  # in words: kept, loses too much, skipped and why, ...
    figures: Figures | None = None  # None: it did not run
    evaluated: Figures | None = None  # on the folder that was given for that


@dataclass(frozen=True)
class Sweep:
    """All trials, and the bound."""

    model: str
    max_drop: float  # points
    trials: tuple[Tried, ...]
    command: str

    @property
    def cuts(self) -> list[str]:
        return list(dict.fromkeys(each.trial.cut for each in self.trials))

    def of_cut(self, cut: str) -> list[tuple[Point, Tried]]:
        """List the trials that ran, as points: bytes, and points of top-1 against the uncut network."""
        return [
            (Point(each.figures.payload_bytes.mean, -each.figures.top1_drop, each.trial.name), each)
            for each in self.trials
            if each.trial.cut == cut and each.figures is not None and each.figures.payload_bytes.mean > 0
        ]


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
        """The network; empty: the record does not say."""
        return self.find("model", "config", str) or ""

    @property
    def photos(self) -> int | None:
        """The number of photos that its rates are of; None: the record does not say."""
        return self.find("photos", "evaluation", int)

    def find(self, name: str, inside: str, kind: type[T]) -> T | None:
        places = [self.results, self.results.get(inside)] if isinstance(self.results, dict) else []
        found = [place.get(name) for place in places if isinstance(place, dict)]
        return next((each for each in found if isinstance(each, kind)), None)


@record
class Seen:
    """A line of `bottlenet watch --json`: an answer, and what had become of the camera's frames by then."""

    photo: Annotated[str, Field(max_length=MAX_NAME_BYTES)]
    at: str
    by: str
    frame_bytes: Count
    tries: Count
    again: bool
    frames: Count
    dropped: Count
    unchanged: Count = 0
    failed: Count = 0

    @property
    def counts(self) -> tuple[int, ...]:
        return self.frames, self.dropped, self.unchanged, self.failed

    @property
    def sent_bytes(self) -> int:
        """Count as `Answered.sent_bytes` does; none go out for what had been answered before."""
        return 0 if self.again or (self.by == LOCAL and not self.tries) else self.frame_bytes


@dataclass(frozen=True)
class Camera:
    """What a camera showed and sent."""

    name: str
    seen: tuple[Seen, ...]  # in the order of `times_s`
    times_s: tuple[float, ...]  # since the first of them
    counts: tuple[int, ...]  # frames, dropped, unchanged, failed
    model: str = ""  # the lines do not say it


Content = Run | Evaluated | Profile | BenchReport | Record | Sweep | Camera


@dataclass(frozen=True)
class Source:
    """A file or folder that a report is made of."""

    path: Path
    kind: str  # run, sweep, evaluation, profile, bench, record or camera
    content: Content
    command: str  # that made it; in capitals what the file does not say
    model: str  # the network; empty: it does not say

    @property
    def name(self) -> str:
        path = self.path.parent if self.path.name == CANDIDATES else self.path
        return path.name.removesuffix(LINES).removesuffix(".json")


def read_sources(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Read all sources, in order. InputError: a path that is none, an empty folder, too many, or mixed networks."""
    sources = tuple(source for path in paths for source in expand(path))
    if len(sources) > MAX_SOURCES:
        raise InputError(f"{len(sources)} sources are given; {MAX_SOURCES} fit a report: make several")
    # Records have figures of their own, and are compared with nothing but their own network's.
    networks = {source.model: source for source in reversed(sources) if source.model and source.kind != "record"}
    if len(networks) > 1:
        one, other = sorted(networks.values(), key=sources.index)[:2]
        what = f"{one.path} is of the network {shown(one.model)} and {other.path} of {shown(other.model)}"
        raise InputError(f"{what}, which can't be compared; make a report for each")
    return sources


def expand(path: Path) -> Iterator[Source]:
    """Yield a file, a run, or what a folder holds. InputError: nothing of the kind."""
    if path.suffix == LINES and not path.is_dir():
        yield from read_cameras(path)
    elif not path.is_dir():
        yield read_file(path)
    elif (path / RUN).is_file():
        yield read_run(path)
    elif (path / CANDIDATES).is_file():  # a sweep's runs say less than it does
        yield read_file(path / CANDIDATES)
    else:
        yield from read_folder(path)


def read_folder(path: Path) -> list[Source]:
    """Read the runs and files in a folder. InputError: there is none."""
    runs = [run.parent for depth in range(1, RUNS_DEPTH + 1) for run in sorted(path.glob("*/" * depth + RUN))]
    if len(runs) > MAX_SOURCES:
        raise InputError(f"{path}: {len(runs)} runs are in it; {MAX_SOURCES} fit a report: give some of them")
    found = [read_run(run) for run in runs]
    for file in sorted(path.glob("*.json"))[:MAX_SOURCES]:
        document = read_json(file, MAX_JSON_BYTES)
        if kind_of(document) is not None:
            found.append(read_file(file))
    if not found:
        raise InputError(f"{path}: nothing in it that a report is made of; give {KNOWN}")
    return found


def read_file(path: Path) -> Source:
    """InputError: can't be read, of no kind that is known, or not as its kind is."""
    document = read_json(path, MAX_JSON_BYTES)
    kind = kind_of(document)
    if kind is None:
        what = f"its fields are {shown(', '.join(document))}" if isinstance(document, dict) else "it is no object"
        raise InputError(f"{path}: it is JSON that no report is made of ({what}); give {KNOWN}")
    with reading(path, AGAIN):
        content = READERS[kind](document, path)
    whose = content.origin if isinstance(content, Evaluated) else content
    if isinstance(content, Sweep):
        command = content.command
    elif isinstance(content, Profile):
        command = profile_command(content, path.name)
    elif not isinstance(command := document.get("command"), str) or not command:
        command = COMMANDS[kind].format(name=path.name)
    return Source(path, kind, content, command, whose.model)


def kind_of(document: object) -> str | None:
    """Return a key of READERS; None: it is something else."""
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


def picked(kind: type[T], values: object, **more: object) -> T:
    """Make a record of those fields that it has. InputError: they don't fit."""
    if not isinstance(values, dict):
        raise InputError(f"it is {shown(values)}; {AGAIN}")
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return convert(kind, {name: value for name, value in (more | values).items() if name in names}, AGAIN)


def read_evaluation(document: dict[str, Any], path: Path) -> Evaluated:
    names = {each.name for each in fields(Evaluation)} | OUTSIDE
    rest = {name: value for name, value in document.items() if name not in names}
    return Evaluated(picked(Evaluation, document), convert(Origin, asdict(Origin()) | rest, AGAIN))


def profile_command(profile: Profile, name: str) -> str:
    """Write `bottlenet profile` with all that a profile says of its options."""
    parts = ["bottlenet", "profile", "BUNDLE", "--data", "DIR", "--limit", f"{profile.photos}"]
    if profile.max_drop is not None:
        parts += ["--max-drop", f"{profile.max_drop:g}"]
    energy = next((each.energy for each in profile.candidates if each.energy is not None), None)
    if energy is not None and energy.how == "given" and energy.power_mw is not None:
        parts += ["--device-power-mw", f"{energy.power_mw:g}"]
    elif energy is not None:
        parts += ["--meter", "model" if energy.how == "modelled" else "METER"]
    return " ".join([*parts, "-o", shlex.quote(name)])


def read_bench(document: object, path: Path) -> BenchReport:
    """InputError: not as `bottlenet bench` writes it."""
    report = picked(BenchReport, document)
    if not report.conditions or not report.rows or len(report.rows) % len(report.conditions):
        count = f"{len(report.rows)} rows for {len(report.conditions)} links"
        raise InputError(f"bench: {count}; make it again with bottlenet bench")
    return report


def read_record(document: dict[str, Any], path: Path) -> Record:
    for name in ("commit", "date"):
        if not isinstance(document[name], str):
            raise InputError(f"{name} is {shown(document[name])}; make the record again with its benchmark")
    machine = document["machine"]
    words = [value for value in machine.values() if isinstance(value, str)] if isinstance(machine, dict) else []
    return Record(document["commit"], document["date"], machine=", ".join(words), results=document["results"])


def read_run(path: Path) -> Source:
    """InputError: its files can't be read, or are not a run's. A run without a log has only begun."""
    config = read_json(path / RUN, MAX_RUN_BYTES)
    settings = [value for name, value in config.items() if name != "data"] if isinstance(config, dict) else [None]
    if not all(isinstance(value, Scalar) for value in settings) or not {"model", "cut", "codec"} <= set(config):
        raise InputError(f"{path / RUN}: it is {shown(config)}, which no run was told; give the folder of a run")
    passes: list[Pass] = []
    steps: list[Step] = []
    log = path / LOG
    with reading(log, "give another file"):
        lines = read_bounded(log, MAX_LOG_BYTES).split(b"\n")[:-1] if log.exists() else []  # half a line, if killed
    for count, line in enumerate(lines, 1):
        with reading(f"{log}, line {count}", AGAIN):
            values = parse_json(line)
            if isinstance(values, dict) and "held_out" in values:
                passes += parse_passes(values["held_out"], values.get("epoch"))
            else:
                steps.append(picked(Step, values))
    every = max(1, -(-len(steps) // MOST_STEPS))
    run = Run(config, tuple(passes), tuple(steps[::every]))
    return Source(path, "run", run, run.command, str(config["model"]))


def parse_passes(rows: object, epoch: object = None) -> list[Pass]:
    """Parse `held_out` of a log, or the passes of benchmarks/training.py. InputError: something else."""
    if not isinstance(rows, list) or len(rows) > MOST_ITEMS:
        raise InputError(f"held_out is {shown(rows)}; give the folder of a run")
    held_out = (row for row in rows if not isinstance(row, dict) or row.get("photos") != 0)  # else there were too few
    return [picked(Pass, row, epoch=epoch, budget=None) for row in held_out]


def read_cameras(path: Path) -> Iterator[Source]:
    """Yield the cameras in a file of lines. InputError: it can't be read, or there is none in it."""
    with reading(path, "give another file"):
        lines = read_bounded(path, MAX_LOG_BYTES).split(b"\n")
    cameras: dict[str, list[tuple[float, Seen]]] = {}
    for count, line in enumerate(lines, 1):
        values = None
        with contextlib.suppress(InputError):  # a process that is killed leaves half a line
            values = parse_json(line)
        if isinstance(values, dict) and values.get("status") == "answered" and "frames" in values:
            with reading(f"{path}, line {count}", AGAIN):
                seen = picked(Seen, values)
                cameras.setdefault(seen.photo.removesuffix(f"@{seen.at}"), []).append((seconds_at(seen.at), seen))
    if not cameras:
        raise InputError(f"{path}: there is no answer of a camera in it; give {WATCHED}")
    for name, found in cameras.items():
        yield Source(path, "camera", camera_of(name, found), COMMANDS["camera"].format(name=path.name), "")


def camera_of(name: str, found: Sequence[tuple[float, Seen]]) -> Camera:
    """Put answers in order, and add up the counts of all processes; each begins at 0."""
    ends = [before for (_, before), (_, after) in pairwise(found) if any(map(lt, after.counts, before.counts))]
    counts = tuple(map(sum, zip(*(seen.counts for seen in (*ends, found[-1][1])), strict=True)))
    times_s, seen = zip(*sorted(found, key=itemgetter(0)), strict=True)
    return Camera(name, seen, tuple(at_s - times_s[0] for at_s in times_s), counts)


def seconds_at(at: str) -> float:
    """Parse a frame's time, 2026-12-01T04:20:11.212Z, or its place in a video, 0:00:12.480. InputError: neither."""
    try:
        if at.endswith("Z"):
            return datetime.fromisoformat(f"{at[:-1]}+00:00").timestamp()
        hours, minutes, seconds = map(float, at.split(":"))
        check_number("at", total := 3600 * hours + 60 * minutes + seconds, 0, 1e9)
    except ValueError as error:
        raise InputError(f"at is {shown(at)}; give {WATCHED}") from error
    return total


def parse_sweep(document: dict[str, Any], path: Path) -> Sweep:
    model, search, rows = document.get("model"), document.get("search"), document.get("trials")
    check_text("model", model)
    if not isinstance(search, dict) or not isinstance(rows, list) or len(rows) > MOST_ITEMS:
        raise InputError(f"its search is {shown(search)} and its trials are {shown(rows)}; {AGAIN}")
    check_number("max_drop", search.get("max_drop"), -100, 100)
    trials = tuple(picked(Tried, row, trial=asdict(picked(Trial, row))) for row in rows)
    return Sweep(str(model), search["max_drop"], trials, sweep_command(document, path.resolve().parent.name))


def sweep_command(document: dict[str, Any], out: str) -> str:
    """Write `bottlenet sweep` with all that the file says of its options; those at their defaults are left out."""
    search, config = document["search"], document.get("config")
    options = [*fields(SweepConfig), *(each for each in fields(Search) if each.name not in (*SWEPT, "max_drop"))]
    settings = {each.name: each.default for each in options}
    told = {**(config if isinstance(config, dict) else {}), **search}
    del settings["model"], settings["data"]
    changed = {name: told[name] for name, default in settings.items() if told.get(name) not in (None, default)}
    if "everything" in changed:
        changed["all"] = changed.pop("everything")
    values = {
        "data": told.get("data", "DIR"),
        **{name: ",".join(map(str, search[name])) for name in SWEPT if isinstance(search.get(name), list)},
        "max_drop": f"{search['max_drop']:g}",
        **changed,
        "out": out,
    }
    return " ".join(["bottlenet", "sweep", shlex.quote(str(document["model"])), *options_of(values)])


def options_of(values: dict[str, Any]) -> Iterator[str]:
    """Yield settings as options of a command, folders without their places; what is off or empty is left out."""
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if name in FOLDERS or name == "evaluate":
            folders = value if isinstance(value, list) else [value]
            yield from (f"{flag} {shlex.quote(without_root(str(each)))}" for each in folders if each != "")
        elif value is True:
            yield flag
        elif value is not False and value != "":
            yield f"{flag} {shlex.quote(str(value))}"


READERS: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "evaluation": read_evaluation,
    "profile": lambda document, path: parse_profile(json.dumps(document).encode()),
    "bench": read_bench,
    "record": read_record,
    "sweep": parse_sweep,
}
COMMANDS = {
    "evaluation": "bottlenet evaluate BUNDLE --data DIR --json > {name}",
    "bench": "bottlenet bench BUNDLE --data DIR -o {name}",
    "record": "python benchmarks/SCRIPT",
    "camera": "bottlenet watch SOURCE --to URL --json > {name}",
}

MOST_ITEMS = 100_000  # of a list
AGAIN = "make the file again with this version of bottlenet"


def read_json(path: Path, limit_bytes: int) -> Any:
    """Read a file. InputError: can't be read, larger than that, no JSON, or a number that is not finite."""
    with reading(path, "give another file"):
        return parse_json(read_bounded(path, limit_bytes))


def parse_json(text: str | bytes) -> Any:
    """InputError: no JSON in UTF-8, nested too deeply, or NaN and its like in it."""

    def refused(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(text, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it is not JSON ({' '.join(str(error).split()):.100}); give another file") from error


def is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and -LARGEST < value < LARGEST
