"""Trains the unit, and gently the tail behind it, through the real codec.

The head stays as it is, so its features are computed once (`features.py`) and the hours go into steps. The target is
the uncut network's own scores on the same crop: no labels are needed. The loop is in `train`, to be read top to bottom.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from bottlenet.errors import InputError
from bottlenet.lab.checkpoint import Averaged, Position, load_checkpoint, save_checkpoint
from bottlenet.lab.config import TrainConfig
from bottlenet.lab.features import FeatureCache
from bottlenet.lab.losses import cross_entropy, distillation, learning_rate, relative_error, steered
from bottlenet.lab.runs import LOG, append, check_run, claim
from bottlenet.lab.trainset import divided, fill, open_cache, read, some_features
from bottlenet.net.build import insert, start_from_components
from bottlenet.net.model import BottleNet, Output
from bottlenet.net.models import load_model
from bottlenet.net.rate import JpegRate, joined_bytes

__all__ = ["TrainConfig", "train"]

LOG_STEPS = 20  # steps that a line of the log is the mean of


def train(config: TrainConfig, progress: Progress) -> BottleNet:
    """Trains, or goes on with what `config.out` holds; returns the network with averaged weights.

    InputError: folders, cut or numbers that can't be, or a run of another configuration in `config.out`.
    """
    run = Path(config.out)
    torch.manual_seed(config.seed)
    classifier = load_model(config.model)
    net = insert(classifier, **config.unit_numbers())
    check_run(run, config)
    cache = open_cache(config, classifier, net)
    fill(cache, 0, config, progress)
    train_set, held_out = divided(cache)
    if len(train_set) < config.batch:
        raise InputError(f"{len(train_set)} photos to train on, fewer than one batch of {config.batch}; give more")
    claim(run, config)
    start_from_components(net, some_features(cache, train_set), amplitude=config.amplitude)
    freeze(net, tail=config.tail_lr > 0)
    optimizer = build_optimizer(net, config)
    averaged = Averaged(net)
    rate = JpegRate(net.codec.mosaic, config.quality) if config.target_bytes else None
    at = Position(lmbda=config.lmbda)
    load_checkpoint(run, net, optimizer, averaged, at)

    per_epoch = len(train_set) // config.batch
    total = per_epoch * config.epochs
    task = progress.add_task("training", total=total, completed=at.steps)
    pace = Pace(at.steps, config.batch)
    recent: list[tuple[float, float, float]] = []
    saved = time.monotonic()
    while at.epoch < config.epochs:
        crop_set = at.epoch % config.crops
        fill(cache, crop_set, config, progress)
        order = np.random.default_rng((config.seed, at.epoch)).permutation(train_set)
        while at.step < per_epoch:
            positions = order[at.step * config.batch : (at.step + 1) * config.batch]
            features, uncut_scores = read(cache, crop_set, positions)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(at.steps / total)

            output = net.forward_features(features, codec_in_loop=not config.naive)
            distilled = distillation(output.scores, uncut_scores)
            loss = distilled + config.feature_weight * relative_error(output.features_hat, features)
            if config.label_weight:
                labels = [cache.photos[i].label for i in positions]
                loss = loss + config.label_weight * cross_entropy(output.scores, labels)
            if rate is not None and output.payload_bytes is not None:
                at.mean_bytes = moving_average(at.mean_bytes, output.payload_bytes.float().mean().item())
                at.lmbda = steered(at.lmbda, at.mean_bytes, config.target_bytes, at.steps / total)
                loss = loss + at.lmbda * joined_bytes(output.payload_bytes, rate(output.continuous))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(averaged.live.values(), 1.0)
            optimizer.step()
            averaged.update()

            at.step, at.steps = at.step + 1, at.steps + 1
            recent.append(measured(loss, distilled, output))
            if at.steps % LOG_STEPS == 0:
                record = log_record(at, recent, pace.images_per_s(at.steps))
                recent.clear()
                append(run / LOG, record)
                progress.update(task, completed=at.steps, description=described(record))
            if time.monotonic() - saved > config.checkpoint_minutes * 60:
                save_checkpoint(run, net, optimizer, averaged, at)
                saved = time.monotonic()
        at.epoch, at.step = at.epoch + 1, 0
        with averaged.swapped_in():
            report = held_out_report(net, cache, held_out)
        append(run / LOG, {"epoch": at.epoch, "steps": at.steps, "held_out": report})
        save_checkpoint(run, net, optimizer, averaged, at)
    averaged.copy_in()
    return net.eval()


def freeze(net: BottleNet, *, tail: bool) -> None:
    """Only the unit and the tail learn; of the tail neither norms' statistics nor depthwise kernels.

    Depthwise kernels are 4 % of the tail's weights; their gradients take a third of a step on a CPU.
    """
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.head.requires_grad_(False)
    net.tail.requires_grad_(tail)
    for module in net.tail.modules():
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
            module.requires_grad_(False)
    set_training_mode(net)


def set_training_mode(net: BottleNet) -> None:
    """For the unit alone: the statistics of the head's and the tail's norms stay as they are."""
    net.eval()
    for part in (net.reduction, net.quantizer, net.restoration):
        part.train()


def build_optimizer(net: BottleNet, config: TrainConfig) -> torch.optim.AdamW:
    """For what `freeze` lets learn. A group's `peak` is its highest learning rate."""
    unit = [*net.reduction.parameters(), *net.restoration.parameters()]
    tail = [parameter for parameter in net.tail.parameters() if parameter.requires_grad]
    groups = [
        {"params": unit, "peak": config.lr, "weight_decay": 1e-4},
        {"params": tail, "peak": config.tail_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98))


@torch.no_grad()
def held_out_report(net: BottleNet, cache: FeatureCache, held_out: NDArray[np.int64]) -> dict[str, float]:
    """Distillation loss, agreement with the uncut network (0..1) and mean bytes on photos that were not trained on."""
    net.eval()
    loss, agreed, size = 0.0, 0, 0.0
    for start in range(0, len(held_out), 64):
        features, uncut_scores = read(cache, 0, held_out[start : start + 64])
        output = net.forward_features(features)
        assert output.payload_bytes is not None
        loss += distillation(output.scores, uncut_scores).item() * len(features)
        agreed += int((output.scores.argmax(1) == uncut_scores.argmax(1)).sum())
        size += output.payload_bytes.sum().item()
    set_training_mode(net)
    count = max(1, len(held_out))
    return {"photos": count, "distillation": loss / count, "agreement": agreed / count, "payload_bytes": size / count}


class Pace:
    """Photos a second since the run was started or resumed."""

    def __init__(self, steps: int, batch: int) -> None:
        self.first, self.batch, self.started = steps, batch, time.monotonic()

    def images_per_s(self, steps: int) -> float:
        """The mean up to step number `steps`."""
        return (steps - self.first) * self.batch / max(1e-9, time.monotonic() - self.started)


def moving_average(mean: float, value: float) -> float:
    """A mean over about the last ten values; 0 stands for none yet."""
    return 0.9 * mean + 0.1 * value if mean else value


def measured(loss: Tensor, distilled: Tensor, output: Output) -> tuple[float, float, float]:
    """Loss, distillation loss and mean payload bytes of a batch; 0 bytes where no codec ran."""
    size = 0.0 if output.payload_bytes is None else output.payload_bytes.float().mean().item()
    return loss.item(), distilled.item(), size


def log_record(at: Position, recent: Sequence[tuple[float, float, float]], images_per_s: float) -> dict[str, float]:
    """A line of the log: means of what was `measured` since the last one."""
    loss, distilled, size = (float(mean) for mean in np.mean(recent, axis=0))
    return {
        "steps": at.steps,
        "epoch": at.epoch,
        "loss": round(loss, 4),
        "distillation": round(distilled, 4),
        "payload_bytes": round(size, 1),
        "lmbda": round(at.lmbda, 8),
        "images_per_s": round(images_per_s, 1),
    }


def described(record: dict[str, float]) -> str:
    """The same for the progress bar."""
    return f"loss {record['loss']:.3f}, {record['payload_bytes']:.0f} bytes, {record['images_per_s']:.0f} images/s"
