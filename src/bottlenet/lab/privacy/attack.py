"""Trains the attacker: pixels that are near, and that look near to the network itself.

sent -> inverter -> photo_hat --+--> squared error of each photo, its logarithm -------+
                                `--> head -> features, against those of the photo -----+--> loss
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.files import part_of
from bottlenet.lab.checkpoint import Averaged
from bottlenet.lab.losses import learning_rate
from bottlenet.lab.privacy.config import PrivacyConfig
from bottlenet.lab.privacy.inverter import Inverter
from bottlenet.lab.privacy.linear import Batch, Fits, Linear, as_input, as_pixels, fit
from bottlenet.lab.privacy.samples import Records, Samples
from bottlenet.net.models import Classifier
from bottlenet.net.split import split
from bottlenet.wire.contexts import ZERO

FIT_BATCH = 32  # records that a linear map is fitted on at once
MEASURED = 8  # such batches at most are kept out of the fit, to choose the penalty by
SCALE_RECORDS = 512  # that the symbols' loudness is taken from
REBUILT_BATCH = 32
LEAST_ERROR = 1e-5  # 50 dB: nearer is near enough
PERCEIVED = 0.25  # share of a batch that is shown to the network: all of it would take as long as everything else
DECAY = 0.998  # of the average of the weights

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Attacker:
    """What rebuilds photos, and how it was made."""

    inverter: Inverter
    scale: Tensor  # (C,) the symbols' loudness
    steps: int


def to_pixels(made: Tensor) -> np.ndarray:
    """(B, 3, side, side), about 0..1 -> (B, side, side, 3) uint8."""
    pixels: np.ndarray = (made.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


class Perceived:
    """How far two photos are apart for the network: its features at the bundle's cut, over their spread.

    Photos keep the size they have: the layers before a cut take any. The head has no gradient, its input has.
    """

    def __init__(self, classifier: Classifier, cut: str, side: int) -> None:
        size = classifier.preprocess.size
        self.head = split(classifier.module, cut, (3, size, size)).head.eval().requires_grad_(False)
        self.mean = torch.tensor(classifier.mean)[:, None, None] / 255
        self.std = torch.tensor(classifier.std)[:, None, None] / 255
        try:
            with torch.no_grad():
                self.features(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{classifier.name}: its head takes no photos of {side} x {side} ({reason}); give --perceptual 0"
            ) from error

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, side, side), 0..1 -> whatever is at the cut."""
        found: Tensor = self.head((pixels - self.mean) / self.std)
        return found

    def __call__(self, made: Tensor, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(pixels)
        return F.l1_loss(self.features(made), wanted) / wanted.std().clamp_min(1e-6)


def log_error(made: Tensor, pixels: Tensor) -> Tensor:
    """Mean over the photos of the logarithm of their squared error: the mean PSNR, but for sign and unit."""
    errors = F.mse_loss(made, pixels, reduction="none").mean((1, 2, 3))
    return (errors + LEAST_ERROR).log().mean()


def loudness(samples: Samples) -> Tensor:
    """(C,) standard deviation around 0 of the symbols, so that all channels start alike; 1 for one that is silent."""
    records = next(samples.batches(SCALE_RECORDS))
    values = records["symbols"].astype(np.float32) - ZERO
    scale = np.sqrt((values**2).mean((0, 2, 3)))
    return torch.from_numpy(np.where(scale > 0.1, scale, 1.0).astype(np.float32))


def batch_of(records: Records, scale: Tensor) -> Batch:
    """As the linear map and the inverter take them."""
    return as_input(records["symbols_hat"], records["payload_bytes"], scale), as_pixels(records["pixels"])


def fit_linear(batches: Iterable[Batch], count: int) -> Fits:
    """On `count` batches, a few of which choose the penalty; where there is one alone, it does both."""
    left = iter(batches)
    held_out = list(islice(left, max(1, min(MEASURED, count // 4))))
    return fit(left if count > 1 else held_out, held_out)


def train_attacker(
    samples: Samples, config: PrivacyConfig, perceived: Perceived | None, on_progress: Progress | None = None
) -> Attacker:
    """`config.epochs` passes over `samples`. The same samples, numbers and seed give the same attacker."""
    torch.manual_seed(config.seed)
    scale = loudness(samples)
    _, grid, _ = samples.dtype["symbols"].shape
    side = samples.dtype["pixels"].shape[0]
    every = (batch_of(records, scale) for records in samples.batches(FIT_BATCH))
    linear = fit_linear(every, -(-len(samples) // FIT_BATCH)).around
    inverter = Inverter(linear, grid, side, width=config.width, blocks=config.blocks)
    inverter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.set_flush_denormal(True)  # Adam's second moments become so small that a step takes five times as long
    try:
        steps = minimise(inverter, samples, scale, config, perceived, on_progress)
    finally:
        torch.set_flush_denormal(False)
    return Attacker(inverter.eval(), scale, steps)


def minimise(
    inverter: Inverter,
    samples: Samples,
    scale: Tensor,
    config: PrivacyConfig,
    perceived: Perceived | None,
    on_progress: Progress | None,
) -> int:
    """The loop; leaves averaged weights, and says how many steps it took."""
    optimizer = torch.optim.AdamW(inverter.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=1e-4)
    averaged = Averaged(inverter, DECAY)
    perceivable = max(1, round(config.batch * PERCEIVED))
    per_epoch = max(1, len(samples) // config.batch)
    total = per_epoch * config.epochs
    for step, records in enumerate(shuffled(samples, config, per_epoch)):
        sent, pixels = batch_of(records, scale)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate(step / total)
        made = inverter(sent.contiguous(memory_format=torch.channels_last))
        loss = log_error(made, pixels)
        if perceived is not None:
            loss = loss + config.perceptual * perceived(made[:perceivable], pixels[:perceivable])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(inverter.parameters(), 1.0)
        optimizer.step()
        averaged.update()
        if on_progress is not None:
            on_progress(step + 1, total)
    averaged.copy_in()
    return total


def shuffled(samples: Samples, config: PrivacyConfig, per_epoch: int) -> Iterator[Records]:
    """Batches of every pass, each pass in another order."""
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, 2, epoch)).permutation(len(samples))
        for step in range(per_epoch):
            yield samples.read(order[step * config.batch : (step + 1) * config.batch].tolist())


def rebuilt(rebuild: Callable[[Tensor], Tensor], scale: Tensor, sent: Records) -> np.ndarray:
    """(N,) records -> (N, side, side, 3)."""
    made = []
    with torch.no_grad():
        for start in range(0, len(sent), REBUILT_BATCH):
            arrived, _ = batch_of(sent[start : start + REBUILT_BATCH], scale)
            made.append(to_pixels(rebuild(arrived)))
    return np.concatenate(made)


def save_attacker(path: Path, attacker: Attacker) -> None:
    """One safetensors file, whole or not at all."""
    tensors = {name: value.contiguous().clone() for name, value in attacker.inverter.state_dict().items()}
    tensors["scale"] = attacker.scale
    about = {"steps": attacker.steps, "penalty": attacker.inverter.penalty}
    with part_of(path) as part:
        save_file(tensors, part, metadata={"about": json.dumps(about)})


def load_attacker(path: Path, samples: Samples, config: PrivacyConfig) -> Attacker:
    """The one of an earlier run. InputError: the file is damaged, or another network's."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            about = json.loads(file.metadata()["about"])
        scale = tensors.pop("scale")
        _, grid, _ = samples.dtype["symbols"].shape
        linear = Linear(tensors["weight"], tensors["bias"], float(about["penalty"]))
        side = samples.dtype["pixels"].shape[0]
        inverter = Inverter(linear, grid, side, width=config.width, blocks=config.blocks)
        inverter.load_state_dict(tensors)
        inverter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # or sums are rounded otherwise
        return Attacker(inverter.eval(), scale, int(about["steps"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: it can't be used ({reason}); remove it, and it is made again") from error
