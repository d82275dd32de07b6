"""Which trials a sweep has, needs and keeps: the paper's training phase without the training. No torch.

    cuts x channels x strides x qualities -> Trial, ...
    trials, results -> next_trial -> the one from which most is learned
                    -> ruled_out  -> those that can't win any more, and why
                    -> winners    -> of each cut the smallest bytes within the bound (Algorithm 1)

At one cut, more channels, a smaller stride and a higher quality mean more bytes and no less accuracy. So what is less
than a trial that loses too much loses too much, and what is more than one within the bound has more bytes. With few
photos to train on, and to measure with, that is the rule and not a law; a sweep can train everything instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, TypeAlias

from pydantic import Field

from bottlenet.plan.profile import DROP_OF
from bottlenet.records import Count, Number, Sizes, one_of, record

Points = Annotated[Number, Field(ge=-100)]


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
        return (
            self != other
            and self.cut == other.cut
            and self.channels <= other.channels
            and self.stride >= other.stride
            and self.quality <= other.quality
        )


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


def grid(
    cuts: Mapping[str, int], channels: Sequence[Fraction | int], strides: Sequence[int], qualities: Sequence[int]
) -> tuple[Trial, ...]:
    """List all trials, each once, cut by cut. `cuts` says how many channels each has; below 1, `channels` are
    shares.
    """
    trials = (
        Trial(cut, int(each) if each >= 1 else max(1, round(count * each)), stride, quality)
        for cut, count in cuts.items()
        for each, stride, quality in itertools.product(channels, strides, qualities)
    )
    return tuple(dict.fromkeys(trials))


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
    return [
        trial
        for trial in trials
        if trial not in results and (everything or ruled_out(trial, results, max_drop) is None)
    ]


def next_trial(open_ones: Sequence[Trial], running: Collection[Trial] = ()) -> Trial | None:
    """Choose the trial that rules out most of `open_ones`, however it comes out; None: all of them are running.

    First cuts at which nothing runs: a running trial may rule out the rest of its cut.
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


def winners(trials: Sequence[Trial], results: Results, max_drop: float) -> dict[str, Trial]:
    """Map each cut to the trial with the smallest bytes within the bound; a cut without one is left out."""
    best: dict[str, Trial] = {}
    for trial in trials:
        figures = results.get(trial)
        if figures is None or figures.top1_drop > max_drop:
            continue
        other = best.get(trial.cut)
        if other is None or figures.payload_bytes.mean < results[other].payload_bytes.mean:
            best[trial.cut] = trial
    return best


def least_loss(trials: Sequence[Trial], results: Results) -> dict[str, Trial]:
    """Map each cut to the trial that loses least."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial in results:
            other = best.setdefault(trial.cut, trial)
            if results[trial].top1_drop < results[other].top1_drop:
                best[trial.cut] = trial
    return best


def beaten(results: Results) -> set[Trial]:
    """List those that can't be kept whatever the bound: another of their cut loses no more with no more bytes."""

    def beats(one: Trial, other: Trial) -> bool:
        mine, its = ((results[each].top1_drop, results[each].payload_bytes.mean, each.name) for each in (one, other))
        return one.cut == other.cut and mine[0] <= its[0] and mine[1] <= its[1] and mine < its

    return {trial for trial in results if any(beats(other, trial) for other in results)}
