"""What a training step minimises, by codec: distillation from the uncut network, and the price of the bytes.

What a unit learns from, and how near its answers come to those of the uncut network, is up to the task:

    task             learns from                                                    agreement
    classification   the uncut network's distribution over the classes              photos with the same answer
    multilabel       the uncut network's probability of each class                  photos with the same labels
    segmentation     the features at the cut alone; the tail stays as it is         places of the same class
    detection        the features at the cut alone; the tail stays as it is         boxes that are found again
    rows of a YOLO   its scores and boxes before suppression, and the features      boxes that are found again

A batch may come in slices, some of them in other processes. So a step only computes; what one step leaves for the next,
such as the weight of a byte, changes in `after`, by what was measured on the whole batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.net.cut import Layout
from bottlenet.net.detectors import RowsToBoxes
from bottlenet.net.export import answer_layer, origin_of
from bottlenet.net.model import BottleNet, Output
from bottlenet.net.models import Classifier
from bottlenet.net.unit import JpegRate, joined_bytes
from bottlenet.task import Classification, Multilabel, is_dense, same_answers
from bottlenet.train.config import TrainConfig
from bottlenet.train.runs import Position

Values = TypeVar("Values", NDArray[np.int64], Tensor)
Labels = Sequence[int | None]


@dataclass(frozen=True)
class Slice:
    """Slice `number` of `count`, equally large, of a step's batch that several processes and passes share."""

    number: int = 0
    count: int = 1

    def of(self, batch: Values) -> Values:
        """Take the slice of something that has one value a photo."""
        size = len(batch) // self.count
        return batch[self.number * size : (self.number + 1) * size]

    def before(self, batch: NDArray[np.int64]) -> int:
        """Return the value before its first; before the first of all, the last."""
        return int(batch[self.number * (len(batch) // self.count) - 1])


WHOLE = Slice()


@dataclass(frozen=True)
class Step:
    """The loss of a batch or a slice of it, and what was measured on the way."""

    loss: Tensor
    distillation: Tensor  # (B,) nats; 0 where the uncut network did not run
    payload_bytes: Tensor  # (B,) float; 0 where no codec ran
    latent_hat: Tensor | None = None  # (B, c', h, w), with its gradient, for an adversary

    @staticmethod
    def of(loss: Tensor, distilled: Tensor, output: Output) -> Step:
        """Take the loss, and (B,) that may still have a gradient."""
        distilled = distilled.detach()
        size = output.payload_bytes
        size = torch.zeros_like(distilled) if size is None else size.detach().to(distilled)
        return Step(loss, distilled, size, output.latent_hat)


class Objective(ABC):
    """Called at each step; `share` (0..1) of the run is done, `labels` are those of the photos where they are known."""

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        self.net, self.config, self.at, self.task = net, config, at, net.task

    @abstractmethod
    def step(self, features: Tensor, uncut: Tensor, labels: Labels, share: float, batch_slice: Slice = WHOLE) -> Step:
        """Compute the loss of a slice of the batch from features (B, c, H, W) and the uncut scores (B, classes)."""

    def features_loss(self, output: Output, features: Tensor) -> Tensor:
        """Weigh the features' error (B,); 0 where they are others than those that came."""
        if self.config.frozen_to != self.config.cut or output.features_hat.shape != features.shape:
            return features.new_zeros(len(features))
        return self.config.feature_weight * features_error(output.features_hat, features, self.net.layout)

    def distance(self, output: Output, features: Tensor, uncut: Tensor) -> Tensor:
        """Measure what is to become small (B,); of a detector's rows with the features, as it sees little at first."""
        each = target_error(self.net, output, features, uncut)
        return each if self.net.answer is None else each + self.features_loss(output, features)

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        """Learn from a step of the whole batch, (B,) each on the CPU, in the batch's order: steer the bytes."""
        steer(self.at, self.config.target_bytes, payload_bytes, share)


def objective_of(net: BottleNet, config: TrainConfig, at: Position) -> Objective:
    """Choose the objective that the configuration asks for."""
    if config.only_exit:
        return ExitAlone(net, config, at)
    if config.codec != "entropy":
        return CodecInLoop(net, config, at)
    return Embedded(net, config, at) if config.embedded else FixedRate(net, config, at)


def check_task(classifier: Classifier, config: TrainConfig) -> None:
    """Raise InputError for something that a run of that classifier's task can't do."""
    task = classifier.task
    if config.label_weight and not isinstance(task, Classification):
        what = f"label_weight is for networks that give one label, and this one's task is {task.name}"
        raise InputError(f"{what}; give 0")
    if config.scores_weight and is_dense(task):
        what = f"scores_weight is for networks that give a score a class, and this one's task is {task.name}"
        raise InputError(f"{what}; give 0")
    if config.frozen_to != config.cut and classifier.features_alone:
        option = "end_to_end" if config.end_to_end else "learn_from"
        raise InputError(f"a {task.name} learns from the features at the cut, so its head stays: leave out {option}")


class CodecInLoop(Objective):
    """Compression-aware training (paper), or naive where the configuration says so."""

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        super().__init__(net, config, at)
        self.rate: JpegRate | None = None
        if config.target_bytes:
            self.rate = JpegRate(net.codec.mosaic, config.quality).to(next(net.parameters()).device)

    def step(self, features: Tensor, uncut: Tensor, labels: Labels, share: float, batch_slice: Slice = WHOLE) -> Step:
        config = self.config
        alone = self.net.features_alone
        output = self.net.forward_features(features, codec_in_loop=not config.naive, with_tail=not alone)
        distilled = target_error(self.net, output, features, uncut)
        loss = config.distillation_weight * distilled.mean()
        loss = loss + other_losses(config, output, uncut, labels)
        if not alone:
            loss = loss + self.features_loss(output, features).mean()
        if self.rate is not None and output.payload_bytes is not None:
            loss = loss + self.at.lmbda * joined_bytes(output.payload_bytes, self.rate(output.continuous))
        return Step.of(loss, distilled, output)


class FixedRate(Objective):
    """The entropy codec, and every photo as fine as it goes: lmbda, or the target, says how many bytes that is."""

    def step(self, features: Tensor, uncut: Tensor, labels: Labels, share: float, batch_slice: Slice = WHOLE) -> Step:
        all_bytes = features.new_full((len(features),), math.inf)
        output = self.net.forward_within(features, all_bytes, with_tail=not self.net.features_alone)
        assert output.payload_bytes is not None
        distilled = self.distance(output, features, uncut)
        cost = self.at.lmbda * output.payload_bytes.mean()
        loss = self.config.distillation_weight * distilled.mean() + cost
        loss = loss + other_losses(self.config, output, uncut, labels)
        return Step.of(loss, distilled, output)


class ExitAlone(Objective):
    """The exit, without a unit or a tail. InputError: all of it stays as published."""

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        super().__init__(net, config, at)
        assert net.exit is not None
        learned, _ = net.learned_and_reduction
        if not any(p.requires_grad for layers in (net.exit, learned) for p in layers.parameters()):
            raise InputError("only_exit has nothing to learn: leave out fewer blocks, or give learn_from")

    def step(self, features: Tensor, uncut: Tensor, labels: Labels, share: float, batch_slice: Slice = WHOLE) -> Step:
        each = distillation(self.net.exit_scores(features), uncut)
        return Step(each.mean(), each.detach(), torch.zeros_like(each))

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        """Leave everything as it is."""


BINS = 8  # of budgets, equal steps of their logarithm, for the curve of distillation over bytes
FIRST_BUDGETS = 4.0  # times the budgets that a run starts with
CURVE_DECAY = 0.98  # of a bin's mean, when a new value comes


class Embedded(Objective):
    """Payloads cut to budgets between `smallest_bytes` and `largest_bytes`, uniform in their logarithm; four times as
    much at the start, falling over the first third: what never gets through can't learn to be worth it. A run that
    starts from another's weights has its own budgets from the first step. `whole_share` of the photos keep all bytes.

    A byte costs what it brings: the slope of distillation over bytes, at that photo's budget, on a curve through the
    last few hundred steps. With less, the latent would grow beyond what any budget holds; with more, shrink below it.
    And a photo's loss counts in shares of that curve's height: else the smallest budgets, whose loss is ten times that
    of the largest, would have nearly all the gradient.
    """

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        super().__init__(net, config, at)
        self.low, self.high = math.log(config.smallest_bytes), math.log(config.largest_bytes)
        self.random = torch.Generator()
        self.centres = self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS

    def places(self, count: int) -> Tensor:
        """Draw the logarithms of this step's budgets (count,) on the CPU; infinite for all bytes."""
        self.random.manual_seed(self.at.steps)  # so that a run that was stopped goes on as it would have
        places = self.low + (self.high - self.low) * torch.rand(count, generator=self.random)
        if not self.config.whole_share:
            return places
        return torch.where(torch.rand(count, generator=self.random) < self.config.whole_share, math.inf, places)

    def step(self, features: Tensor, uncut: Tensor, labels: Labels, share: float, batch_slice: Slice = WHOLE) -> Step:
        whole = self.places(len(features) * batch_slice.count)
        heights, slopes = self.height_and_slope(whole)
        factor = 1.0 if self.config.start else budget_factor(share)
        of_batch = whole.exp() * factor, heights, slopes
        budget_bytes, height, slope = (batch_slice.of(each).to(features.device) for each in of_batch)
        output = self.net.forward_within(features, budget_bytes, with_tail=not self.net.features_alone)
        assert output.payload_bytes is not None
        each = self.distance(output, features, uncut)
        size = output.payload_bytes
        cost = slope / torch.where(budget_bytes.isinf(), size.detach().clamp_min(1), budget_bytes) * size
        loss = ((each + cost) / height).mean() * heights.mean().item() * self.config.distillation_weight
        loss = loss + other_losses(self.config, output, uncut, labels)
        if self.config.scores_weight:
            loss = loss + self.config.scores_weight * scores_error(output.scores, uncut)
        return Step.of(loss, each, output)

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        self.update_curve(self.places(len(distilled)), distilled)

    def update_curve(self, places: Tensor, distilled: Tensor) -> None:
        """Move the mean distillation of each bin of budgets, and of one of whole payloads; NaN where none was yet."""
        bins = BINS + (self.config.whole_share > 0)
        curve = self.at.curve or [math.nan] * bins
        numbers = ((places - self.low) / (self.high - self.low) * BINS).clamp(0, BINS - 1).long()
        numbers[places.isinf()] = BINS
        for number in range(bins):
            here = distilled[numbers == number]
            if len(here):
                mean, before = here.mean().item(), curve[number]
                curve[number] = mean if math.isnan(before) else CURVE_DECAY * before + (1 - CURVE_DECAY) * mean
        self.at.curve = curve

    def height_and_slope(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate at log budgets (B,) the distillation, nats, and what e times the bytes would save of it; by a
        parabola through the curve's logarithm. Whole payloads (infinite) have a height of their own, and the least
        slope.
        """
        if not self.at.curve or any(math.isnan(value) for value in self.at.curve):
            return torch.ones_like(places), self.config.first_lmbda * places.clamp(max=self.high).exp()
        logs = np.log(np.maximum(self.at.curve, 1e-3))
        a, b, c = np.polyfit(self.centres, logs[:BINS], 2)
        all_bytes = places.isinf()
        known = places.masked_fill(all_bytes, self.high)
        height = torch.exp(a * known**2 + b * known + c).masked_fill(all_bytes, math.exp(logs[-1]))
        steepness = -(2 * a * known + b).masked_fill(all_bytes, 0.0)  # of log over log
        return height, height * steepness.clamp(0.15, 2)


def budget_factor(share: float) -> float:
    """Return how many times the budgets hold when `share` of the run is done."""
    return math.pow(FIRST_BUDGETS, max(0.0, 1 - 3 * share))


def other_losses(config: TrainConfig, output: Output, uncut: Tensor, labels: Labels) -> Tensor:
    """Add the weighted cross-entropy and the exit's divergence from the uncut network, nats; 0 without either."""
    loss = uncut.new_zeros(())
    if config.label_weight:
        loss = loss + config.label_weight * cross_entropy(output.scores, labels)
    return loss if output.exit_scores is None else loss + distillation(output.exit_scores, uncut).mean()


def steer(at: Position, target_bytes: float, payload_bytes: Tensor, share: float) -> None:
    """Move the weight of a byte by one step, by a mean over about the last ten batches, where there is a target."""
    if not target_bytes:
        return
    size = payload_bytes.mean().item()
    at.mean_bytes = 0.9 * at.mean_bytes + 0.1 * size if at.mean_bytes else size
    at.lmbda = next_lmbda(at.lmbda, at.mean_bytes, target_bytes, share)


def next_lmbda(lmbda: float, mean_bytes: float, target_bytes: float, share: float) -> float:
    """Move the weight of a byte up where payloads are too large, down where they are too small.

    `share` of the run is done: the aim falls from twice the target to the target over the first third, so that the
    network first learns what is worth sending. Two percent of the (log) miss a step is slow enough not to swing.
    """
    aim = target_bytes * math.pow(2, max(0.0, 1 - 3 * share))
    return min(max(lmbda * math.pow(mean_bytes / aim, 0.02), 2e-5), 0.1)


def learning_rate(share: float) -> float:
    """Return the factor on the peak: linear up over the first 2 % of the run, then half a cosine down to 1 %."""
    if share < 0.02:
        return share / 0.02
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - 0.02) / 0.98))


def target_error(net: BottleNet, output: Output, features: Tensor, uncut: Tensor) -> Tensor:
    """Measure each photo's distance to the uncut network (B,), nats, or `features_error`; 0 where that did not run."""
    if net.features_alone:
        return features_error(output.features_hat, features, net.layout)
    if not uncut.shape[1]:
        return output.scores.new_zeros(len(output.scores))
    if net.answer is not None:
        return rows_error(net.answer, output.scores, uncut.view_as(output.scores))
    if isinstance(net.task, Multilabel):
        return binary_distillation(output.scores, uncut)
    return distillation(output.scores, uncut)


@torch.no_grad()
def agreement(net: BottleNet, output: Output, features: Tensor, uncut: Tensor) -> float:
    """Add up over the photos, 0..1 each, how well the answers agree; dense tails take one at a time, maps are large."""
    task = net.task
    if not is_dense(task):
        return same_answers(task, output.scores.cpu().numpy(), uncut.cpu().numpy())
    if net.answer is not None:
        answers = (net.answer(rows).cpu().numpy() for rows in (uncut.view_as(output.scores), output.scores))
        return same_answers(task, *answers)
    finish = answer_layer(origin_of(net).classifier)
    total = 0.0
    for mine, whole in zip(output.features_hat[:, None], features[:, None], strict=True):
        answers = (finish(net.scores(each)).cpu().numpy() for each in (whole, mine))
        total += same_answers(task, *answers)
    return total


def distillation(scores: Tensor, uncut: Tensor) -> Tensor:
    """Compute the KL divergence from the uncut network's distribution, nats a photo (B,), of scores (B, classes)."""
    return F.kl_div(scores.log_softmax(1), uncut.log_softmax(1), reduction="none", log_target=True).sum(1)


def binary_distillation(scores: Tensor, uncut: Tensor) -> Tensor:
    """Compute the same where each class stands for itself: binary cross-entropy less the least there is, nats (B,)."""
    wanted = uncut.sigmoid()
    least = F.binary_cross_entropy_with_logits(uncut, wanted, reduction="none")
    return (F.binary_cross_entropy_with_logits(scores, wanted, reduction="none") - least).sum(1)


def rows_error(answer: RowsToBoxes, rows: Tensor, uncut: Tensor) -> Tensor:
    """Measure how far a YOLO's rows (B, N, 4 + 1 + classes) are from the uncut network's (B,), before suppression.

    Of scores it is the binary cross-entropy less the least there is, nats; of boxes how far the edges are off, in sides
    of the uncut network's box, each box as much as its best score.
    """
    (boxes, scores), (wanted_boxes, wanted) = answer.boxes_and_scores(rows), answer.boxes_and_scores(uncut)
    wanted = wanted.clamp(LEAST, 1 - LEAST)
    least = F.binary_cross_entropy(wanted, wanted, reduction="none")
    nats = F.binary_cross_entropy(scores.clamp(LEAST, 1 - LEAST), wanted, reduction="none") - least
    sides = (wanted_boxes[..., 2:] - wanted_boxes[..., :2]).clamp_min(LEAST).repeat(1, 1, 2)
    off = ((boxes - wanted_boxes).abs() / sides).sum(2).clamp(max=MOST_OFF)
    return nats.sum((1, 2)) + (off * wanted.amax(1)).sum(1)


LEAST = 1e-6
MOST_OFF = 4.0  # sides: a box that is lost altogether is no worse than that


def features_error(features_hat: Tensor, features: Tensor, layout: Layout | None = None) -> Tensor:
    """Compute each photo's squared error as a share of the batch's variance (B,): 0 is perfect, 1 their mean.

    Of a set, average over its tensors, which count alike.
    """
    if layout is not None and layout.parts:
        pairs = zip(layout.apart(features_hat), layout.apart(features), strict=True)
        return torch.stack([features_error(mine, wanted) for mine, wanted in pairs]).mean(0)
    squared = (features_hat - features).square().flatten(1).mean(1)
    return squared / features.var().clamp_min(1e-6)


def scores_error(scores: Tensor, uncut: Tensor) -> Tensor:
    """Compute the scores' squared error, each less its mean, over the uncut network's variance: all of them count."""
    centred, wanted = (each - each.mean(1, keepdim=True) for each in (scores, uncut))
    return F.mse_loss(centred, wanted) / wanted.var().clamp_min(1e-6)


def cross_entropy(scores: Tensor, labels: Labels) -> Tensor:
    """Average over the photos that have a label; 0 where none has."""
    known = torch.tensor([-1 if label is None else label for label in labels], device=scores.device)
    if not (known >= 0).any():
        return scores.sum() * 0
    return F.cross_entropy(scores, known, ignore_index=-1)
