"""Trains the unit, and gently the tail behind it, through the real codec.

The head stays as it is, so its features are computed once (`features.py`) and the hours go into steps. The target is
the uncut network's own scores on the same crop: no labels are needed. The loop is in `train`, to be read top to bottom.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.lab.checkpoint import Averaged, load_checkpoint, save_checkpoint
from bottlenet.lab.data import Photo, list_photos
from bottlenet.lab.features import FeatureCache
from bottlenet.lab.frozen import frozen_network
from bottlenet.net.build import UnitConfig, insert, start_from_components
from bottlenet.net.model import BottleNet, Passed
from bottlenet.net.models import Classifier, load_model
from bottlenet.net.rate import JpegRate, joined_bytes

LOG_STEPS = 20  # steps that a line of the log is the mean of
HELD_OUT = 50  # one photo of this many is kept for the report at the end of each pass


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: str  # efficientnet_lite0 | package.module:function
    data: tuple[str, ...]  # folders of photos; a folder given twice counts twice
    out: str  # folder of the run: run.json, log.jsonl, checkpoint.safetensors
    cut: str  # where the network is cut: a name from `bottlenet cuts`
    unit: str = UnitConfig.unit  # residual | paper
    channels: int = UnitConfig.channels  # c', channels of the latent
    stride: int = UnitConfig.stride  # s, spatial reduction
    codec: str = UnitConfig.codec  # jpeg | webp | deflate | raw
    quality: int = UnitConfig.quality  # of the codec
    naive: bool = False  # train without the codec in the loop
    epochs: int = 8  # passes over the photos
    crops: int = 4  # sets of random crops that the passes take in turn
    batch: int = 32  # photos a step
    lr: float = 4e-4  # peak learning rate of the unit
    tail_lr: float = 1e-4  # peak learning rate of the tail; 0 leaves it as it is
    target_bytes: float = 0.0  # mean payload to steer for, by the weight of the rate; 0: no rate in the loss
    amplitude: float = 2.0  # standard deviation of the first component at the start, in units of the quantizer's range of 32
    lmbda: float = 3e-4  # weight of a byte in the loss, where the steering starts
    label_weight: float = 0.0  # weight of cross-entropy on labelled photos
    feature_weight: float = 0.1  # weight of the features' relative squared error
    seed: int = 0  # of crops, order and weights
    cache: str = ".cache/bottlenet"  # where head features are kept
    checkpoint_minutes: float = 5.0  # between checkpoints

    def unit_config(self) -> UnitConfig:
        return UnitConfig(self.cut, self.unit, self.channels, self.stride, self.codec, self.quality)


@dataclass
class Progressed:
    """Where a run is: all that a checkpoint holds beside tensors."""

    epoch: int = 0
    step: int = 0  # in the epoch
    steps: int = 0  # since the start
    lmbda: float = 0.0
    mean_bytes: float = 0.0
    held_out: dict[str, float] = field(default_factory=dict)


def train(config: TrainConfig, progress: Progress) -> BottleNet:
    """Trains, or goes on with what `config.out` holds; returns the network with averaged weights."""
    run = Path(config.out)
    torch.manual_seed(config.seed)
    classifier = load_model(config.model)
    net = insert(classifier, config.unit_config())
    cache = open_cache(config, classifier, net)
    fill(cache, 0, config, progress)
    readable, held_out = cache.positions(0), held_out_positions(cache.photos)
    train_set, held_out = np.setdiff1d(readable, held_out), np.intersect1d(readable, held_out)
    start_from_components(net, component_batches(cache, train_set), amplitude=config.amplitude)
    freeze(net, tail=config.tail_lr > 0)
    optimizer = build_optimizer(net, config)
    averaged = Averaged(net)
    rate = JpegRate(net.codec.mosaic, config.quality) if config.codec == "jpeg" else None
    at = Progressed(lmbda=config.lmbda)
    claim_run(run, config)
    load_checkpoint(run, net, optimizer, averaged, at)

    per_epoch = len(train_set) // config.batch
    total = per_epoch * config.epochs
    task = progress.add_task("training", total=total, completed=at.steps)
    log = (run / "log.jsonl").open("a", encoding="utf-8")
    saved = started = time.monotonic()
    first = at.steps
    recent: list[tuple[float, float, float]] = []
    while at.epoch < config.epochs:
        order = np.random.default_rng((config.seed, at.epoch)).permutation(train_set)
        crop_set = at.epoch % config.crops
        fill(cache, crop_set, config, progress)
        for at.step in range(at.step, per_epoch):
            positions = order[at.step * config.batch : (at.step + 1) * config.batch]
            features, uncut = (torch.from_numpy(a) for a in cache.read(crop_set, positions))
            features = features.to(memory_format=torch.channels_last)
            set_learning_rates(optimizer, config, at.steps / total)

            passed = net.forward_features(features, codec_in_loop=not config.naive)
            distilled = distillation(passed.scores, uncut)
            loss = distilled + config.feature_weight * relative_error(passed.features_hat, features)
            if config.label_weight:
                loss = loss + config.label_weight * labelled(passed.scores, cache, positions)
            if config.target_bytes and rate is not None and passed.payload_bytes is not None:
                steer(at, config, float(passed.payload_bytes.float().mean()), at.steps / total)
                loss = loss + at.lmbda * joined_bytes(passed.payload_bytes, rate(passed.continuous))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_((p for g in optimizer.param_groups for p in g["params"]), 1.0)
            optimizer.step()
            averaged.update()

            at.steps += 1
            recent.append(measured(loss, distilled, passed))
            if at.steps % LOG_STEPS == 0:
                speed = (at.steps - first) * config.batch / (time.monotonic() - started)
                record = log_record(at, recent, speed)
                recent.clear()
                log.write(json.dumps(record) + "\n")
                log.flush()
                progress.update(task, completed=at.steps, description=describe(record))
            if time.monotonic() - saved > config.checkpoint_minutes * 60:
                save_checkpoint(run, net, optimizer, averaged, replaced(at, step=at.step + 1))
                saved = time.monotonic()
        at.epoch, at.step = at.epoch + 1, 0
        with averaged.swapped_in():
            at.held_out = report(net, cache, held_out)
        log.write(json.dumps({"epoch": at.epoch, "steps": at.steps, "held_out": at.held_out}) + "\n")
        log.flush()
        save_checkpoint(run, net, optimizer, averaged, at)
    log.close()
    averaged.copy_in()
    net.eval()
    return net


def replaced(at: Progressed, *, step: int) -> Progressed:
    return Progressed(**{**asdict(at), "step": step})


def open_cache(config: TrainConfig, classifier: Classifier, net: BottleNet) -> FeatureCache:
    photos = [photo for folder in config.data for photo in list_photos(folder)]
    size = classifier.preprocess.size
    with torch.no_grad():
        c, height, width = net.head(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1:]
    return FeatureCache(
        Path(config.cache), photos, classifier.preprocess,
        model=config.model, cut=config.cut, shape=(c, height, width), classes=len(classifier.labels), seed=config.seed,
    )


def fill(cache: FeatureCache, crop_set: int, config: TrainConfig, progress: Progress) -> None:
    """Head features and uncut scores of one set of crops, where they are not on disk yet."""
    if not cache.path(crop_set).exists():
        frozen = frozen_network(insert(load_model(config.model), config.unit_config()))
        task = progress.add_task(f"head features, crops {crop_set + 1}", total=len(cache.photos))
        for done in cache.fill(crop_set, frozen):
            progress.update(task, completed=done)
        progress.remove_task(task)


def held_out_positions(photos: Sequence[Photo]) -> np.ndarray:
    """One photo of HELD_OUT, by a hash of its name: the same ones whatever else is in the folders."""
    return np.array([i for i, photo in enumerate(photos) if zlib.crc32(photo.path.name.encode()) % HELD_OUT == 0], int)


def component_batches(cache: FeatureCache, train_set: np.ndarray, photos: int = 1024) -> Iterator[Tensor]:
    chosen = np.random.default_rng(0).permutation(train_set)[:photos]
    for start in range(0, len(chosen), 64):
        yield torch.from_numpy(cache.read(0, chosen[start : start + 64])[0])


def freeze(net: BottleNet, *, tail: bool) -> None:
    """Head: fixed. Tail: batch-norm statistics fixed, depthwise kernels too (a third of a step for few weights)."""
    net.to(memory_format=torch.channels_last)
    net.head.requires_grad_(False)
    net.tail.requires_grad_(tail)
    net.head.eval()
    net.tail.eval()
    for module in net.tail.modules():
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1:
            module.requires_grad_(False)
    net.reduction.train()
    net.restoration.train()
    net.quantizer.train()


def build_optimizer(net: BottleNet, config: TrainConfig) -> torch.optim.AdamW:
    unit = [p for part in (net.reduction, net.restoration) for p in part.parameters()]
    tail = [p for p in net.tail.parameters() if p.requires_grad]
    groups = [{"params": unit, "peak": config.lr, "weight_decay": 1e-4}]
    if tail:
        groups.append({"params": tail, "peak": config.tail_lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, share: float) -> None:
    """Linear up over the first 2 % of the run, then half a cosine down to 1 %."""
    factor = share / 0.02 if share < 0.02 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - 0.02) / 0.98))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def steer(at: Progressed, config: TrainConfig, batch_bytes: float, share: float) -> None:
    """Moves lmbda so that the mean payload falls to the target over the first third of the run and stays there."""
    at.mean_bytes = batch_bytes if not at.mean_bytes else 0.9 * at.mean_bytes + 0.1 * batch_bytes
    ahead = max(0.0, 1 - 3 * share)
    aim = config.target_bytes * 2.0**ahead
    at.lmbda = float(np.clip(at.lmbda * (at.mean_bytes / aim) ** 0.02, 1e-6, 0.1))


def distillation(scores: Tensor, uncut: Tensor) -> Tensor:
    """KL divergence of the uncut network's distribution from ours, nats a photo."""
    return F.kl_div(scores.log_softmax(1), uncut.log_softmax(1), reduction="batchmean", log_target=True)


def relative_error(features_hat: Tensor, features: Tensor) -> Tensor:
    return F.mse_loss(features_hat, features) / features.var().clamp_min(1e-6)


def labelled(scores: Tensor, cache: FeatureCache, positions: np.ndarray) -> Tensor:
    labels = torch.tensor([-1 if (label := cache.photos[i].label) is None else label for i in positions])
    if bool((labels < 0).all()):
        return scores.sum() * 0
    return F.cross_entropy(scores, labels, ignore_index=-1)


@torch.no_grad()
def report(net: BottleNet, cache: FeatureCache, held_out: np.ndarray) -> dict[str, float]:
    """Distillation loss, agreement with the uncut network and bytes on photos that were not trained on."""
    net.quantizer.eval(), net.reduction.eval(), net.restoration.eval()
    loss, agree, sizes = 0.0, 0, []
    for start in range(0, len(held_out), 64):
        features, uncut = (torch.from_numpy(a) for a in cache.read(0, held_out[start : start + 64]))
        passed = net.forward_features(features.to(memory_format=torch.channels_last))
        loss += float(distillation(passed.scores, uncut)) * len(features)
        agree += int((passed.scores.argmax(1) == uncut.argmax(1)).sum())
        sizes.append(passed.payload_bytes.numpy())
    net.quantizer.train(), net.reduction.train(), net.restoration.train()
    count = len(held_out)
    return {"distillation": loss / count, "agreement": agree / count, "payload_bytes": float(np.concatenate(sizes).mean())}


def measured(loss: Tensor, distilled: Tensor, passed: Passed) -> tuple[float, float, float]:
    """loss, distillation loss and mean payload bytes of a batch."""
    size = 0.0 if passed.payload_bytes is None else passed.payload_bytes.float().mean().item()
    return loss.item(), distilled.item(), size


def log_record(at: Progressed, recent: list[tuple[float, float, float]], speed: float) -> dict[str, float]:
    loss, distilled, size = np.mean(recent, axis=0)
    return {
        "steps": at.steps, "epoch": at.epoch, "loss": round(loss, 4), "distillation": round(distilled, 4),
        "payload_bytes": round(size, 1), "lmbda": round(at.lmbda, 8), "images_per_s": round(speed, 1),
    }


def describe(record: dict[str, float]) -> str:
    return f"loss {record['loss']:.3f}, {record['payload_bytes']:.0f} bytes, {record['images_per_s']:.0f} images/s"


def claim_run(run: Path, config: TrainConfig) -> None:
    """A run folder belongs to one configuration: going on with another one is an error."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "run.json"
    mine = json.loads(json.dumps(asdict(config)))
    if path.exists() and json.loads(path.read_text()) != mine:
        raise InputError(f"{run} holds a run of another configuration; choose another folder")
    path.write_text(json.dumps(mine, indent=1))
