"""A sweep's folder and its options. Whatever ends a sweep, the same command goes on from here. No torch.

sweep.json            how its trials are trained and measured: `SweepConfig`, and the network's fingerprint
trials/NAME.json      one for each finished trial, written whole or not at all
runs/NAME/            a run of `train.train`: an unfinished one goes on where it was, one that may be kept is exported
features/             of the frozen heads; only a cache
bundles/NAME/         on their way into the ladder
ladder/               the kept ones
candidates.json       everything in one file
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from bottlenet.errors import InputError
from bottlenet.files import lock_file, read_bounded, write_whole
from bottlenet.records import Count, Positive, convert, parse_versioned, record
from bottlenet.train.sweep.grid import Figures, Trial, grid

UNITS = ("paper", "residual")
WEIGHTS = ("float32", "int8")
MAX_TRIALS = 10_000
FEWEST_MEASURED = 20
AT_LEAST_ONE = ("photos", "epochs", "crops", "batch", "measured")


@dataclass(frozen=True)
class SweepConfig:
    """How each trial is trained and measured. A folder holds trials of one of these. A field's comment is its help.

    InputError: numbers that can't be.
    """

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
        if self.codec not in CODECS:
            raise InputError(f"there is no codec {self.codec!a:.40}; choose one of {', '.join(CODECS)}")
        if self.unit not in UNITS:
            raise InputError(f"unit {self.unit!a:.40}: one of {', '.join(UNITS)} is possible")
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
    if held_out < FEWEST_MEASURED:
        raise InputError(
            f"{', '.join(config.data)}: {held_out} of {len(photos)} photos are held out, too few to measure on; give "
            f"more photos, about {FEWEST_MEASURED * config.held_out}, or a smaller held_out than {config.held_out}"
        )
    if config.photos >= len(photos) and training < config.batch:
        raise InputError(
            f"{', '.join(config.data)}: {training} of {len(photos)} photos to train on, fewer than one batch of "
            f"{config.batch}; give more photos, or a smaller batch"
        )


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
        if self.weights not in WEIGHTS:
            raise InputError(f"weights {self.weights!a:.40}: one of {', '.join(WEIGHTS)} is possible")
        if self.threads < 1:
            raise InputError(f"threads is {self.threads}; give 1 or more")
        for each in self.channels:
            if each <= 0 or (each > 1 and each.denominator > 1):
                raise InputError(f"channels {each}; give whole numbers, or shares of the cut's channels, such as 1/8")
        count = len(self.cuts) * len(self.channels) * len(self.strides) * len(self.qualities)
        if count > MAX_TRIALS:
            raise InputError(f"{count} trials are more than {MAX_TRIALS}; give fewer values")

    def trials(self, grids: Mapping[str, Sequence[int]]) -> tuple[Trial, ...]:
        """List all trials, cut by cut. `grids` are (C, H, W) of the features at each cut."""
        return grid({cut: grids[cut][0] for cut in self.cuts}, self.channels, self.strides, self.qualities)


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

    @property
    def features(self) -> Path:
        """The cache of the frozen heads' features."""
        return self.path / "features"

    @property
    def ladder(self) -> Path:
        """The folder of the kept ones."""
        return self.path / "ladder"

    @property
    def candidates(self) -> Path:
        """The one file for other programs."""
        return self.path / "candidates.json"

    def run(self, trial: Trial) -> Path:
        """Return the folder of a trial's training."""
        return self.path / "runs" / trial.name

    def bundle(self, trial: Trial) -> Path:
        """Return the folder of a kept trial's bundle, on its way into the ladder."""
        return self.path / "bundles" / trial.name

    def claim(self, config: SweepConfig, fingerprint: str) -> int:
        """Make the folder, or take it up again, and hold it for this process; return the open file that does.

        InputError: it holds something else or another sweep, another process is at it, or it can't be made.
        """
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
                try:
                    del values["format_version"]
                    result = convert(Result, values, AGAIN)
                    if result.trial != trial:
                        raise InputError(f"it is of trial {result.trial.name}")
                except InputError as error:
                    raise InputError(f"{path} can't be used: {error}; {AGAIN}") from error
                found[trial] = result
        return found

    def save(self, result: Result) -> None:
        """Write a finished trial. InputError: the system does not let it."""
        path = self.path / "trials" / f"{result.trial.name}.json"
        document = {"format_version": FORMAT_VERSION, **asdict(result)}
        self.write(path, json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")

    def write(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all. InputError: the system does not let it."""
        try:
            write_whole(path, data)
        except OSError as error:
            raise InputError(f"{path}: can't be written: {error.strerror}; make room, and go on") from error

    def forget_runs(self, trials: Iterable[Trial]) -> None:
        """Remove the training of those that are not needed any more: a checkpoint has four times the network's
        bytes.
        """
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


def parse_figures(values: object) -> Figures:
    """Check and convert. InputError: a field missing, unknown or out of range."""
    return convert(Figures, values, AGAIN)
