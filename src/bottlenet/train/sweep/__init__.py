"""Which trials a sweep has, needs and keeps, and the folder that it keeps them in. No torch.

    cuts x channels x strides x qualities -> Trial, ...
    trials, results -> next_trial -> the one from which most is learned
                    -> ruled_out  -> those that can't win any more, and why
                    -> winners    -> of each cut the smallest bytes within the bound (Algorithm 1 of the paper)

At one cut, more channels, a smaller stride and a higher quality mean more bytes and no less accuracy. So what is less
than a trial that loses too much loses too much, and what is more than one within the bound has more bytes. With few
photos to train on, and to measure with, that is the rule and not a law; a sweep can train everything instead.

Whatever ends a sweep, the same command goes on from its folder, which docs/sweep.md describes.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from bottlenet.errors import InputError
from bottlenet.files import lock_file, read_bounded, reading, write_whole
from bottlenet.plan.profile import DROP_OF
from bottlenet.records import Count, Number, Positive, Sizes, check_choice, convert, one_of, parse_versioned, record

UNITS = ("paper", "residual")
WEIGHTS = ("float32", "int8")
MAX_TRIALS = 10_000
FEWEST_MEASURED = 20
AT_LEAST_ONE = ("photos", "epochs", "crops", "batch", "measured")
Points = Annotated[Number, Field(ge=-100, le=10**12)]


@record
class Trial:
    """One unit at one cut."""

    cut: str
    channels: int  # c'
    stride: int  # s
    quality: int  # of jpeg and webp, level of deflate; of the entropy codec the bytes that are asked for

    @property
    def name(self) -> str:
        """For people, and for a folder."""
        return f"{self.cut}-c{self.channels}-s{self.stride}-q{self.quality}"

    def is_less_than(self, other: Trial) -> bool:
        """Tell if it is of the same cut, with fewer bytes and no more accuracy."""
        smaller = self.channels <= other.channels and self.stride >= other.stride and self.quality <= other.quality
        return self != other and self.cut == other.cut and smaller


@record
class Figures:
    """The figures of a trial, on photos that no trial is trained on. Rates in percent."""

    photos: Count
    labelled: Count  # of them
    payload_bytes: Sizes
    agreement: Points  # photos with the uncut network's answer
    top1: Points | None  # None: no photo has a label
    top1_uncut: Points | None
    top1_drop: Points  # as `drop_of` says
    drop_of: Annotated[str, one_of(*DROP_OF)]  # agreement: photos of 100 with another answer than the uncut network's
    distillation: Number | None  # nats a photo; None: no number, the training went astray


Results: TypeAlias = Mapping[Trial, Figures]


def ruled_out(trial: Trial, results: Results, max_drop: float) -> str | None:
    """Say why a trial can't win; None: it may."""
    for done, figures in results.items():
        if figures.top1_drop > max_drop and trial.is_less_than(done):
            return f"less than {done.name}, which loses {figures.top1_drop:.1f} points"
        if figures.top1_drop <= max_drop and done.is_less_than(trial):
            return f"more than {done.name}, which is within the bound with {figures.payload_bytes.mean:,.0f} bytes"
    return None


def open_trials(trials: Iterable[Trial], results: Results, max_drop: float, *, everything: bool = False) -> list[Trial]:
    """List those that are neither done nor ruled out; with `everything` all that are not done."""
    waiting = [trial for trial in trials if trial not in results]
    return [trial for trial in waiting if everything or ruled_out(trial, results, max_drop) is None]


def next_trial(open_ones: Sequence[Trial], running: Collection[Trial] = ()) -> Trial | None:
    """Choose what rules out most of `open_ones`, first at cuts where nothing runs; None: all of them are running."""
    waiting = [trial for trial in open_ones if trial not in running]
    busy = {trial.cut for trial in running}
    waiting = [trial for trial in waiting if trial.cut not in busy] or waiting
    if not waiting:
        return None
    first = [trial for trial in waiting if trial.cut == waiting[0].cut]  # cut by cut

    def learned(trial: Trial) -> tuple[int, int]:
        below = sum(other.is_less_than(trial) for other in first)
        above = sum(trial.is_less_than(other) for other in first)
        return min(below, above), below + above

    return max(first, key=learned)


def winners(trials: Sequence[Trial], results: Results, max_drop: float) -> dict[str, Trial]:
    """Map each cut to the trial with the smallest bytes within the bound; a cut without one is left out."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial in results and results[trial].top1_drop <= max_drop:
            best[trial.cut] = min(best.get(trial.cut, trial), trial, key=lambda each: results[each].payload_bytes.mean)
    return best


def beaten(results: Results) -> set[Trial]:
    """List those that can't be kept whatever the bound: another of their cut loses no more with no more bytes."""

    def beats(one: Trial, other: Trial) -> bool:
        mine, its = ((results[each].top1_drop, results[each].payload_bytes.mean, each.name) for each in (one, other))
        return one.cut == other.cut and mine[0] <= its[0] and mine[1] <= its[1] and mine < its

    return {trial for trial in results if any(beats(other, trial) for other in results)}


@dataclass(frozen=True)
class SweepConfig:
    """How each trial of a folder is trained and measured. A field's comment is its help. InputError: it can't be."""

    model: str  # efficientnet_lite0 | package.module:function
    data: tuple[str, ...]  # folders of photos; a folder given twice counts twice
    unit: str = "paper"  # paper | residual
    codec: str = "jpeg"  # jpeg | webp | deflate | raw | entropy
    photos: int = 2000  # to train on, evenly spread over the folders
    epochs: int = 4  # passes over them
    crops: int = 1  # sets of random crops that the passes take in turn; each is kept on disk, for each cut
    blend: float = 0.0  # share of the crops that are mixed with another
    batch: int = 16  # photos a step: of few photos more steps are worth more than smooth ones
    lr: float = 1e-3  # peak learning rate of the unit
    tail_lr: float = 0.0  # of the layers behind the cut; 0 leaves them as they are, and a ladder has them once
    held_out: int = 10  # one photo of this many is not trained on, but measured
    measured: int = 500  # so many of those, evenly spread over the folders
    evaluate: str = ""  # a folder that each trial is measured on too, for the table: nothing is chosen by it
    seed: int = 0  # of crops, order and weights

    def __post_init__(self) -> None:
        from bottlenet.wire.codecs import CODECS  # which needs numpy, and --help does not

        if not self.data:
            raise InputError("no folder of photos; give one at least")
        check_choice("codec", self.codec, tuple(CODECS))
        check_choice("unit", self.unit, UNITS)
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more")


def check_photos(config: SweepConfig) -> None:
    """Raise InputError for too few photos to train or to measure on: before torch is imported, and the model loaded."""
    from bottlenet.photos.crops import is_held_out
    from bottlenet.photos.folders import list_photos

    if config.held_out < 2:
        raise InputError(f"held_out is {config.held_out}; give 2 or more: one photo of so many is not trained on")
    photos = {photo.path: photo for data in config.data for photo in list_photos(data)}
    held_out = sum(is_held_out(photo, config.held_out) for photo in photos.values())
    training = min(len(photos), config.photos) - held_out
    where = ", ".join(config.data)
    if held_out < FEWEST_MEASURED:
        what = f"{held_out} of {len(photos)} photos are held out, too few to measure on"
        advice = f"about {FEWEST_MEASURED * config.held_out}, or a smaller held_out than {config.held_out}"
        raise InputError(f"{where}: {what}; give more photos, {advice}")
    if config.photos >= len(photos) and training < config.batch:
        what = f"{training} of {len(photos)} photos to train on, fewer than one batch of {config.batch}"
        raise InputError(f"{where}: {what}; give more photos, or a smaller batch")


@dataclass(frozen=True)
class Search:
    """Which trials, and which of them are good enough. InputError: none, too many, or a bound that is none."""

    cuts: tuple[str, ...]
    channels: tuple[Fraction, ...] = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2))  # c'; below 1: of the cut's
    strides: tuple[int, ...] = (1, 2)  # s
    qualities: tuple[int, ...] = (20,)  # of the codec; 20 is the paper's
    max_drop: float = 2.0  # points
    everything: bool = False  # train what can't win too
    minutes: float = math.inf  # after which no more trial is started
    weights: str = "float32"  # of the bundles in the ladder, or int8
    threads: int = 1  # of a trial

    def __post_init__(self) -> None:
        for name in ("cuts", "channels", "strides", "qualities"):
            if not getattr(self, name):
                raise InputError(f"no {name}; give one at least")
        if not -100 <= self.max_drop <= 100:
            raise InputError(f"max_drop is {self.max_drop}; give points, -100 to 100")
        if not self.minutes > 0:
            raise InputError(f"minutes is {self.minutes}; give a time above 0")
        check_choice("weights", self.weights, WEIGHTS)
        if self.threads < 1:
            raise InputError(f"threads is {self.threads}; give 1 or more")
        for each in self.channels:
            if each <= 0 or (each > 1 and each.denominator > 1):
                raise InputError(f"channels {each}; give whole numbers, or shares of the cut's channels, such as 1/8")
        count = len(self.cuts) * len(self.channels) * len(self.strides) * len(self.qualities)
        if count > MAX_TRIALS:
            raise InputError(f"{count} trials are more than {MAX_TRIALS}; give fewer values")

    def trials(self, grids: Mapping[str, Sequence[int]]) -> tuple[Trial, ...]:
        """List all trials, each once, cut by cut. `grids` are (C, H, W) of the features at each cut."""
        trials = (
            Trial(cut, int(each) if each >= 1 else max(1, round(grids[cut][0] * each)), stride, quality)
            for cut in self.cuts
            for each, stride, quality in itertools.product(self.channels, self.strides, self.qualities)
        )
        return tuple(dict.fromkeys(trials))


FORMAT_VERSION = 1
SWEEP, LOCK = "sweep.json", "lock"
MAX_FILE_BYTES = 2**16
AGAIN = "remove it, and that trial runs again"


@record
class Result:
    """A finished trial."""

    trial: Trial
    figures: Figures  # on held-out photos: what is chosen by
    evaluated: Figures | None  # on the folder that was given for that
    steps: Count  # of training
    seconds: Positive  # of training and measuring: processor time, since it was last resumed


class SweepFolder:
    """Use after `claim`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.features = self.path / "features"  # the cache of the frozen heads' features
        self.ladder = self.path / "ladder"
        self.candidates = self.path / "candidates.json"

    def run(self, trial: Trial) -> Path:
        return self.path / "runs" / trial.name

    def bundle(self, trial: Trial) -> Path:
        return self.path / "bundles" / trial.name

    def claim(self, config: SweepConfig, fingerprint: str) -> int:
        """Make or reopen the folder, and return the open file that holds it. InputError: it is another's, or in use."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fresh = not (self.path / SWEEP).exists()
            if fresh and any(each.name != LOCK for each in self.path.iterdir()):
                raise InputError(f"{self.path} is there already and holds no sweep; give a new folder")
            if not fresh:
                self.check(config, fingerprint)  # before anything is made in what may be another's folder
            handle = lock_file(self.path / LOCK)
            if handle is None:
                raise InputError(f"{self.path}: another process is at this sweep; stop it, or give another folder")
            if fresh:
                document = {"format_version": FORMAT_VERSION, "network": fingerprint, "config": asdict(config)}
                write_whole(self.path / SWEEP, json.dumps(document, indent=1).encode() + b"\n")
            for name in ("trials", "runs", "features", "bundles"):
                (self.path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: no sweep can be kept there ({error.strerror}); give another") from error
        return handle

    def check(self, config: SweepConfig, fingerprint: str) -> None:
        """Raise InputError where it is of other settings, or of another network."""
        path = self.path / SWEEP
        there = self.read(path, "sweep", "give a new folder")
        mine, its = json.loads(json.dumps(asdict(config))), there.get("config")
        if not isinstance(its, dict) or its.keys() != mine.keys() or "network" not in there:
            raise InputError(f"{path} can't be used: it has other fields than this version's; give a new folder")
        if different := [name for name in mine if its[name] != mine[name]]:
            name = different[0]
            setting = f"{name} {its[name]!a:.80}, not {mine[name]!a:.80}"
            raise InputError(f"{self.path} holds a sweep with {setting}; give a new folder, or what it was made with")
        if there["network"] != fingerprint:
            raise InputError(f"{self.path} holds a sweep of a {config.model} with other weights; give a new folder")

    def results(self, trials: Iterable[Trial]) -> dict[Trial, Result]:
        """Read the trials that are finished. InputError: a file of one is damaged, or of something else."""
        found = {}
        for trial in trials:
            path = self.path / "trials" / f"{trial.name}.json"
            if path.exists():
                values = self.read(path, "trial", AGAIN)
                del values["format_version"]
                with reading(path, AGAIN):
                    found[trial] = convert(Result, values, AGAIN)
                    if found[trial].trial != trial:
                        raise InputError(f"it is of trial {found[trial].trial.name}; {AGAIN}")
        return found

    def save(self, result: Result) -> None:
        path = self.path / "trials" / f"{result.trial.name}.json"
        self.write(path, {"format_version": FORMAT_VERSION, **asdict(result)})

    def write(self, path: Path, document: object) -> None:
        """Write a JSON file whole or not at all. InputError: the system does not let it."""
        try:
            write_whole(path, json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise InputError(f"{path}: can't be written: {error.strerror}; make room, and go on") from error

    def forget_runs(self, trials: Iterable[Trial]) -> None:
        """Remove the training of those no longer needed: a checkpoint has four times the network's bytes."""
        for trial in trials:
            shutil.rmtree(self.run(trial), ignore_errors=True)

    def read(self, path: Path, what: str, advice: str) -> dict[str, Any]:
        """Read a JSON object. InputError: it can't be read, is too large, none, or of another version."""
        try:
            return parse_versioned(read_bounded(path, MAX_FILE_BYTES), what, FORMAT_VERSION, advice)
        except OSError as error:
            raise InputError(f"{path}: can't be read: {error.strerror}; {advice}") from error
        except InputError as error:
            raise InputError(f"{path} can't be used: {error}; {advice}") from error
