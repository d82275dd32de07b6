"""What training minimises: distillation, features, labels; and how the weight of a byte is steered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation(scores: Tensor, uncut: Tensor) -> Tensor:
    """KL divergence of our distribution over the classes from the uncut network's, nats a photo (B,).

    Both (B, classes).
    """
    return F.kl_div(scores.log_softmax(1), uncut.log_softmax(1), reduction="none", log_target=True).sum(1)


def binary_distillation(scores: Tensor, uncut: Tensor) -> Tensor:
    """The same where each class stands for itself: KL divergence of our probability of it, summed, nats (B,).

    Binary cross-entropy against the uncut network's sigmoid, less what that has with itself. Both (B, classes).
    """
    wanted = uncut.sigmoid()
    least = F.binary_cross_entropy_with_logits(uncut, wanted, reduction="none")
    return (F.binary_cross_entropy_with_logits(scores, wanted, reduction="none") - least).sum(1)


def features_error(features_hat: Tensor, features: Tensor) -> Tensor:
    """Squared error of each photo's features as a share of the batch's variance (B,): 0 is perfect, 1 is their mean."""
    squared = (features_hat - features).square().flatten(1).mean(1)
    return squared / features.var().clamp_min(1e-6)


def relative_error(features_hat: Tensor, features: Tensor) -> Tensor:
    """Squared error as a share of the features' variance: 0 is perfect, 1 is their mean everywhere."""
    return F.mse_loss(features_hat, features) / features.var().clamp_min(1e-6)


def scores_error(scores: Tensor, uncut: Tensor) -> Tensor:
    """Squared error of the scores less their mean over the classes, as a share of the uncut network's variance.

    Where the uncut network is sure, its distribution over the classes says little; its scores still say all. Both
    (B, classes).
    """
    centred, wanted = (each - each.mean(1, keepdim=True) for each in (scores, uncut))
    return F.mse_loss(centred, wanted) / wanted.var().clamp_min(1e-6)


def cross_entropy(scores: Tensor, labels: Sequence[int | None]) -> Tensor:
    """Mean over the photos that have a label; 0 where none has."""
    known = torch.tensor([-1 if label is None else label for label in labels], device=scores.device)
    if not (known >= 0).any():
        return scores.sum() * 0
    return F.cross_entropy(scores, known, ignore_index=-1)


def steered(lmbda: float, mean_bytes: float, target_bytes: float, share: float) -> float:
    """The next weight of a byte: up where payloads are too large, down where they are too small.

    `share` of the run is done: the aim falls from twice the target to the target over the first third, so that the
    network first learns what is worth sending. Two percent of the (log) miss a step is slow enough not to swing.
    """
    aim = target_bytes * math.pow(2, max(0.0, 1 - 3 * share))
    return min(max(lmbda * math.pow(mean_bytes / aim, 0.02), 2e-5), 0.1)


def learning_rate(share: float) -> float:
    """Factor on the peak: linear up over the first 2 % of the run, then half a cosine down to 1 %."""
    if share < 0.02:
        return share / 0.02
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - 0.02) / 0.98))
