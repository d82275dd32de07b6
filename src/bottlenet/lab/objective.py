"""What a training step minimises, by codec.

`CodecInLoop`: one payload a photo, made by the real codec; a weight of a byte that is steered to a mean size.
`Embedded`: payloads of the entropy codec cut at random sizes; a byte weighs what another byte would bring.
`FixedRate`: whole payloads of the entropy codec.

All of them: distillation from the uncut network's scores, or as `targets.py` has it for the task, and what the bytes
cost.

A batch may come in parts, some of them in other processes. So a step only computes; what one step leaves for the next,
such as the weight of a byte, changes in `after`, by what was measured on the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bottlenet.lab.checkpoint import Position
from bottlenet.lab.config import TrainConfig
from bottlenet.lab.losses import cross_entropy, relative_error, scores_error, steered
from bottlenet.lab.part import WHOLE, Part
from bottlenet.lab.targets import missed, task_of
from bottlenet.net.model import BottleNet, Output
from bottlenet.net.rate import JpegRate, joined_bytes
from bottlenet.task import is_dense

BINS = 8  # of budgets, equal steps of their logarithm, for the curve of distillation over bytes
EARLY_PLENTY = 4.0  # times the budgets that a run starts with
KEPT = 0.98  # of a bin's mean, when a new value comes


@dataclass(frozen=True)
class Step:
    """The loss of a batch or a part of it, and what was measured on the way."""

    loss: Tensor
    distillation: Tensor  # (B,) nats
    payload_bytes: Tensor  # (B,) float; 0 where no codec ran
    latent_hat: Tensor | None = None  # (B, c', h, w), with its gradient, for an adversary

    @staticmethod
    def of(loss: Tensor, distilled: Tensor, output: Output) -> Step:
        """Of the loss, and of (B,) that may still have a gradient."""
        distilled = distilled.detach()
        size = output.payload_bytes
        size = torch.zeros_like(distilled) if size is None else size.detach().to(distilled)
        return Step(loss, distilled, size, output.latent_hat)


class Objective(Protocol):
    """`share` (0..1) of the run is done; `labels` are those of the photos where they are known."""

    def step(
        self, features: Tensor, uncut: Tensor, labels: Sequence[int | None], share: float, part: Part = WHOLE
    ) -> Step:
        """features (B, c, H, W), the uncut network's scores (B, classes) -> the loss of that part of the batch."""

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        """What the step of a whole batch measured, (B,) each on the CPU, in the batch's order."""


class CodecInLoop:
    """Compression-aware training (paper), or naive where the configuration says so."""

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        self.net, self.config, self.at, self.task = net, config, at, task_of(net)
        self.rate: JpegRate | None = None
        if config.target_bytes:
            self.rate = JpegRate(net.codec.mosaic, config.quality).to(next(net.parameters()).device)

    def step(
        self, features: Tensor, uncut: Tensor, labels: Sequence[int | None], share: float, part: Part = WHOLE
    ) -> Step:
        config = self.config
        dense = is_dense(self.task)
        output = self.net.forward_features(features, codec_in_loop=not config.naive, with_tail=not dense)
        distilled = missed(self.task, output, features, uncut)
        loss = distilled.mean() + labels_loss(config, output, labels)
        if output.features_hat.shape == features.shape and not dense:
            loss = loss + config.feature_weight * relative_error(output.features_hat, features)
        if self.rate is not None and output.payload_bytes is not None:
            loss = loss + self.at.lmbda * joined_bytes(output.payload_bytes, self.rate(output.continuous))
        return Step.of(loss, distilled, output)

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        steer(self.at, self.config.target_bytes, payload_bytes, share)


class FixedRate:
    """The entropy codec, and every photo as fine as it goes: lmbda, or the target, says how many bytes that is."""

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        self.net, self.config, self.at, self.task = net, config, at, task_of(net)

    def step(
        self, features: Tensor, uncut: Tensor, labels: Sequence[int | None], share: float, part: Part = WHOLE
    ) -> Step:
        all_bytes = features.new_full((len(features),), math.inf)
        output = self.net.forward_within(features, all_bytes, with_tail=not is_dense(self.task))
        assert output.payload_bytes is not None
        distilled = missed(self.task, output, features, uncut)
        cost = self.at.lmbda * output.payload_bytes.mean()
        return Step.of(distilled.mean() + cost + labels_loss(self.config, output, labels), distilled, output)

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        steer(self.at, self.config.target_bytes, payload_bytes, share)


class Embedded:
    """Payloads cut to budgets between `smallest_bytes` and `largest_bytes`, all sizes (their logarithm) alike; four
    times as much at the start, falling over the first third: what never gets through can't learn to be worth it.

    A byte costs what it brings: the slope of distillation over bytes, at that photo's budget, on a curve through the
    last few hundred steps. With less, the latent would grow beyond what any budget holds; with more, shrink below it.
    And a photo's loss counts in shares of that curve's height: else the smallest budgets, whose loss is ten times that
    of the largest, would have nearly all the gradient.
    """

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        self.net, self.config, self.at, self.task = net, config, at, task_of(net)
        self.low, self.high = math.log(config.smallest_bytes), math.log(config.largest_bytes)
        self.random = torch.Generator()
        self.centres = self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS

    def places(self, count: int) -> Tensor:
        """The logarithms of the budgets of this step's `count` photos, (count,) on the CPU."""
        self.random.manual_seed(self.at.steps)  # so that a run that was stopped goes on as it would have
        return self.low + (self.high - self.low) * torch.rand(count, generator=self.random)

    def step(
        self, features: Tensor, uncut: Tensor, labels: Sequence[int | None], share: float, part: Part = WHOLE
    ) -> Step:
        whole = self.places(len(features) * part.count)
        heights, slopes = self.height_and_slope(whole)
        budget_bytes, height, slope = (
            part.of(each).to(features.device) for each in (whole.exp() * plenty(share), heights, slopes)
        )
        output = self.net.forward_within(features, budget_bytes, with_tail=not is_dense(self.task))
        assert output.payload_bytes is not None
        each = missed(self.task, output, features, uncut)
        cost = slope / budget_bytes * output.payload_bytes
        loss = ((each + cost) / height).mean() * heights.mean().item() + labels_loss(self.config, output, labels)
        if self.config.scores_weight:
            loss = loss + self.config.scores_weight * scores_error(output.scores, uncut)
        return Step.of(loss, each, output)

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        self.note(self.places(len(distilled)), distilled)

    def note(self, places: Tensor, distilled: Tensor) -> None:
        """Keeps the curve: a moving mean of the distillation in each bin of budgets; NaN where none was yet."""
        curve = self.at.curve or [math.nan] * BINS
        numbers = ((places - self.low) / (self.high - self.low) * BINS).long().clamp(0, BINS - 1)
        for number in range(BINS):
            here = distilled[numbers == number]
            if len(here):
                mean = here.mean().item()
                curve[number] = mean if math.isnan(curve[number]) else KEPT * curve[number] + (1 - KEPT) * mean
        self.at.curve = curve

    def height_and_slope(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """At log budgets (B,): the distillation, nats, and what e times the bytes would save of it; by a parabola
        through the curve's logarithm.
        """
        if not self.at.curve or any(math.isnan(value) for value in self.at.curve):
            return torch.ones_like(places), self.config.first_lmbda * places.exp()
        a, b, c = np.polyfit(self.centres, np.log(np.maximum(self.at.curve, 1e-3)), 2)
        height = torch.exp(a * places**2 + b * places + c)
        steepness: Tensor = -(2 * a * places + b)  # of log over log
        return height, height * steepness.clamp(0.15, 2)


def plenty(share: float) -> float:
    """How many times the budgets hold when `share` of the run is done."""
    return math.pow(EARLY_PLENTY, max(0.0, 1 - 3 * share))


def labels_loss(config: TrainConfig, output: Output, labels: Sequence[int | None]) -> Tensor:
    """Weighted cross-entropy; 0 without a weight."""
    if not config.label_weight:
        return output.scores.new_zeros(())
    return config.label_weight * cross_entropy(output.scores, labels)


def steer(at: Position, target_bytes: float, payload_bytes: Tensor, share: float) -> None:
    """One step of the weight of a byte, by a mean over about the last ten batches; 0 stands for none yet. Without a
    target it stays.
    """
    if not target_bytes:
        return
    size = payload_bytes.mean().item()
    at.mean_bytes = 0.9 * at.mean_bytes + 0.1 * size if at.mean_bytes else size
    at.lmbda = steered(at.lmbda, at.mean_bytes, target_bytes, share)


def objective_of(net: BottleNet, config: TrainConfig, at: Position) -> Objective:
    """The one that the configuration asks for."""
    if config.codec != "entropy":
        return CodecInLoop(net, config, at)
    return Embedded(net, config, at) if config.embedded else FixedRate(net, config, at)
