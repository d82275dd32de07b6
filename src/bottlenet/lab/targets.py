"""What a unit learns from, by task, and how near its answers come to those of the uncut network.

    task             learns from                                                    agreement
    classification   the uncut network's distribution over the classes              photos with the same answer
    multilabel       the uncut network's probability of each class                  photos with the same labels
    segmentation     the features at the cut alone; the tail stays as it is         places of the same class
    detection        the features at the cut alone; the tail stays as it is         boxes that are found again

Where the tail stays as it is, tail(features) is what the uncut network says, so that nothing but features is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bottlenet.errors import InputError
from bottlenet.lab.config import TrainConfig
from bottlenet.lab.losses import binary_distillation, distillation, features_error
from bottlenet.net.alike import answering, same
from bottlenet.net.model import BottleNet, Output
from bottlenet.task import Classification, Multilabel, Task, is_dense


def check_target(task: Task, config: TrainConfig) -> None:
    """InputError: something that a run of that task can't do."""
    if config.label_weight and not isinstance(task, Classification):
        raise InputError(
            f"label_weight is for networks that give one label, and this one's task is {task.name}; give 0"
        )
    if config.learn_from and is_dense(task):
        raise InputError(f"a {task.name} learns from the features at the cut, so its head stays: leave out learn_from")


def task_of(net: BottleNet) -> Task:
    """Classification where nobody said."""
    return Classification() if net.origin is None else net.origin.classifier.task


def missed(task: Task, output: Output, features: Tensor, uncut: Tensor) -> Tensor:
    """(B,), 0 where nothing is missed: nats, or of features the squared error as a share of their variance."""
    if is_dense(task):
        return features_error(output.features_hat, features)
    if isinstance(task, Multilabel):
        return binary_distillation(output.scores, uncut)
    return distillation(output.scores, uncut)


@torch.no_grad()
def agreement(net: BottleNet, output: Output, features: Tensor, uncut: Tensor) -> float:
    """Summed over the photos, 0..1 each. A map is large, so that one photo at a time goes through a dense tail."""
    task = task_of(net)
    if not is_dense(task):
        return same(task, output.scores.cpu().numpy(), uncut.cpu().numpy())
    finish = answering(task)
    total = 0.0
    for mine, whole in zip(output.features_hat[:, None], features[:, None], strict=True):
        answers = (finish(net.tail(each).float()).cpu().numpy() for each in (whole, mine))
        total += same(task, *answers)
    return total
