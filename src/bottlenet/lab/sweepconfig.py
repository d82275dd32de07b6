"""What a sweep is told: how each trial is trained and measured, and which trials there are. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from bottlenet.errors import InputError
from bottlenet.lab.grid import Trial, grid

UNITS = ("paper", "residual")
WEIGHTS = ("float32", "int8")
MAX_TRIALS = 10_000
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
        if not self.data:
            raise InputError("no folder of photos; give one at least")
        if self.unit not in UNITS:
            raise InputError(f"unit {self.unit!a:.40}: one of {', '.join(UNITS)} is possible")
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more")


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
        """All of them, cut by cut. `grids` are (C, H, W) of the features at each cut."""
        return grid({cut: grids[cut][0] for cut in self.cuts}, self.channels, self.strides, self.qualities)
