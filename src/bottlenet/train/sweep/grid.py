"""Which trials a sweep has, which it needs, and which it keeps: the paper's training phase without the training.

    cuts x channels x strides x qualities -> Trial, ...
    trials, results -> next_trial -> the one from which most is learned
                    -> ruled_out  -> those that can't win any more, and why
                    -> kept       -> of each cut the smallest bytes within the bound (Algorithm 1)

At one cut, more channels, a smaller stride and a higher quality mean more bytes and no less accuracy. So what is less
than a trial that loses too much loses too much, and what is more than one within the bound has more bytes. With few
photos to train on, and to measure with, that is the rule and not a law; a sweep can train everything instead.

No torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bottlenet.records import Sizes


@dataclass(frozen=True)
class Trial:
    """One unit at one cut."""

    cut: str
    channels: int  # c'
    stride: int  # s
    quality: int  # of jpeg and webp, level of deflate; of the entropy codec the bytes that are asked for

    @property
    def name(self) -> str:
        """A folder's, and for people."""
        return f"{self.cut}-c{self.channels}-s{self.stride}-q{self.quality}"

    def is_less_than(self, other: Trial) -> bool:
        """Of the same cut, with fewer bytes and no more accuracy."""
        return (
            self != other
            and self.cut == other.cut
            and self.channels <= other.channels
            and self.stride >= other.stride
            and self.quality <= other.quality
        )


@dataclass(frozen=True)
class Figures:
    """What a trial came to, on photos that no trial is trained on. Rates in percent."""

    photos: int
    labelled: int  # of them
    payload_bytes: Sizes
    agreement: float  # photos with the uncut network's answer
    top1: float | None  # None: no photo has a label
    top1_uncut: float | None
    top1_drop: float  # points, as `drop_of` says
    drop_of: str  # "top1", or "agreement": photos of 100 with another answer than the uncut network's
    distillation: float | None  # nats a photo; None: no number, the training went astray


Results: TypeAlias = Mapping[Trial, Figures]


def grid(
    cuts: Mapping[str, int], channels: Sequence[Fraction | int], strides: Sequence[int], qualities: Sequence[int]
) -> tuple[Trial, ...]:
    """All trials, each once, cut by cut. `cuts` says how many channels each has; below 1, `channels` are shares."""
    made = (
        Trial(cut, int(each) if each >= 1 else max(1, round(count * each)), stride, quality)
        for cut, count in cuts.items()
        for each, stride, quality in itertools.product(channels, strides, qualities)
    )
    return tuple(dict.fromkeys(made))


def ruled_out(trial: Trial, results: Results, max_drop: float) -> str | None:
    """Why a trial can't win, in words; None: it may."""
    for done, figures in results.items():
        if figures.top1_drop > max_drop and trial.is_less_than(done):
            return f"less than {done.name}, which loses {figures.top1_drop:.1f} points"
        if figures.top1_drop <= max_drop and done.is_less_than(trial):
            return f"more than {done.name}, which is within the bound with {figures.payload_bytes.mean:,.0f} bytes"
    return None


def open_trials(trials: Iterable[Trial], results: Results, max_drop: float, *, everything: bool = False) -> list[Trial]:
    """Those that are neither done nor ruled out; with `everything` all that are not done."""
    return [
        trial
        for trial in trials
        if trial not in results and (everything or ruled_out(trial, results, max_drop) is None)
    ]


def next_trial(open_ones: Sequence[Trial], running: Collection[Trial] = ()) -> Trial | None:
    """The one that rules out most of `open_ones`, however it comes out; None: all of them are running.

    First cuts at which nothing runs: what is running there may rule out the rest.
    """
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


def kept(trials: Sequence[Trial], results: Results, max_drop: float) -> dict[str, Trial]:
    """Cut -> the trial with the smallest bytes within the bound. A cut where none is within it is not there."""
    best: dict[str, Trial] = {}
    for trial in trials:
        figures = results.get(trial)
        if figures is None or figures.top1_drop > max_drop:
            continue
        other = best.get(trial.cut)
        if other is None or figures.payload_bytes.mean < results[other].payload_bytes.mean:
            best[trial.cut] = trial
    return best


def nearest(trials: Sequence[Trial], results: Results) -> dict[str, Trial]:
    """Cut -> the trial that loses least."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial in results:
            other = best.setdefault(trial.cut, trial)
            if results[trial].top1_drop < results[other].top1_drop:
                best[trial.cut] = trial
    return best


def beaten(results: Results) -> set[Trial]:
    """Those that can't be kept whatever the bound: another of their cut loses no more with no more bytes."""

    def beats(one: Trial, other: Trial) -> bool:
        mine, its = ((results[each].top1_drop, results[each].payload_bytes.mean, each.name) for each in (one, other))
        return one.cut == other.cut and mine[0] <= its[0] and mine[1] <= its[1] and mine < its

    return {trial for trial in results if any(beats(other, trial) for other in results)}
