"""Train an attacker who rebuilds photos: pixels that are near, and that look near to the network itself.

    sent (C + 1, h, w) --+--> linear map, as fitted ------------------------------------> tiles -----+
                         |                                                                           + -> photo_hat
                         `--> stem -> [blocks -> twice the size]* -> blocks -> tiles ----------------'

    photo_hat --+--> squared error of each photo, its logarithm -------+
                `--> head -> features, against those of the photo -----+--> loss

The linear maps, which an attacker has to beat, are ridge regressions from one place, or 3 x 3 places around it, and the
payload's size to a tile of side / h pixels. The network learns what the map leaves over. Most work is done where the
picture is small, as most of the error is there: width * 4 channels and all of the blocks at 1/16 of the side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError, reason
from bottlenet.files import part_of
from bottlenet.net.cut import split
from bottlenet.net.models import Classifier
from bottlenet.privacy import PrivacyConfig
from bottlenet.privacy.samples import Progress, Records, Samples
from bottlenet.train.objective import learning_rate
from bottlenet.train.runs import Averaged
from bottlenet.wire.tables import ZERO

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the standardised inputs, for each row
REACH = 3  # places a side that a tile is made of
BYTES_SCALE = 16.0  # log2 of a payload's bytes is up to that
MOST_TIMES = 4  # width, in the smallest sizes
FIT_BATCH = 32  # records that a linear map is fitted on at once
MEASURED = 8  # such batches at most are kept out of the fit, to choose the penalty by
SCALE_RECORDS = 512  # that the symbols' loudness is taken from
REBUILT_BATCH = 32
LEAST_ERROR = 1e-5  # 50 dB: nearer is near enough
PERCEIVED = 0.25  # share of a batch that is shown to the network: all of it would take as long as everything else
DECAY = 0.998  # of the average of the weights

Batch = tuple[Tensor, Tensor]  # what was sent (B, C + 1, h, w), see `as_input`, and pixels (B, 3, side, side), 0..1


@dataclass(frozen=True)
class Attacker:
    """A trained network with all that it needs to rebuild photos."""

    inverter: Inverter
    scale: Tensor  # (C,) the symbols' loudness
    steps: int

    def rebuilt(self, sent: Records, rebuild: Callable[[Tensor], Tensor] | None = None) -> np.ndarray:
        """Rebuild (N,) records as pixels (N, side, side, 3), by the network or by `rebuild`, such as a linear map."""
        photos = []
        with torch.no_grad():
            for start in range(0, len(sent), REBUILT_BATCH):
                arrived, _ = batch_of(sent[start : start + REBUILT_BATCH], self.scale)
                pixels = ((rebuild or self.inverter)(arrived).clamp(0, 1) * 255).round().to(torch.uint8)
                photos.append(pixels.permute(0, 2, 3, 1).contiguous().numpy())
        return np.concatenate(photos)

    def save(self, path: Path) -> None:
        tensors = {name: value.contiguous().clone() for name, value in self.inverter.state_dict().items()}
        tensors["scale"] = self.scale
        about = {"steps": self.steps, "penalty": self.inverter.penalty}
        with part_of(path) as part:
            save_file(tensors, part, metadata={"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path, samples: Samples, config: PrivacyConfig) -> Attacker:
        """Load the attacker of an earlier run. InputError: the file is damaged, or another network's."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
                about = json.loads(file.metadata()["about"])
            scale = tensors.pop("scale")
            linear = Linear(tensors["weight"], tensors["bias"], float(about["penalty"]))
            inverter = inverter_of(linear, samples, config)
            inverter.load_state_dict(tensors)
            return cls(inverter.eval(), scale, int(about["steps"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: it can't be used ({reason(error)}); remove it, and it is made again") from error


def train_attacker(samples: Samples, config: PrivacyConfig, perceived: Perceived | None, say: Progress) -> Attacker:
    """Make `config.epochs` passes over `samples`. The same samples, numbers and seed give the same attacker."""
    torch.manual_seed(config.seed)
    scale = loudness(samples)
    every = (batch_of(records, scale) for records in samples.batches(FIT_BATCH))
    inverter = inverter_of(fit_linear(every, -(-len(samples) // FIT_BATCH)).around, samples, config)
    optimizer = torch.optim.AdamW(inverter.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=1e-4)
    averaged = Averaged(inverter, DECAY)
    perceivable = max(1, round(config.batch * PERCEIVED))
    per_epoch = max(1, len(samples) // config.batch)
    total = per_epoch * config.epochs
    torch.set_flush_denormal(True)  # Adam's second moments become so small that a step takes five times as long
    try:
        for step, records in enumerate(shuffled(samples, config, per_epoch)):
            sent, pixels = batch_of(records, scale)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * learning_rate(step / total)
            photo_hat = inverter(sent.contiguous(memory_format=torch.channels_last))
            errors = F.mse_loss(photo_hat, pixels, reduction="none").mean((1, 2, 3))
            loss = (errors + LEAST_ERROR).log().mean()  # the mean PSNR of the photos, but for sign and unit
            if perceived is not None:
                loss = loss + config.perceptual * perceived(photo_hat[:perceivable], pixels[:perceivable])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(inverter.parameters(), 1.0)
            optimizer.step()
            averaged.update()
            say(step + 1, total)
    finally:
        torch.set_flush_denormal(False)
    averaged.copy_in()
    return Attacker(inverter.eval(), scale, total)


def shuffled(samples: Samples, config: PrivacyConfig, per_epoch: int) -> Iterator[Records]:
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, 2, epoch)).permutation(len(samples))
        for step in range(per_epoch):
            yield samples.read(order[step * config.batch : (step + 1) * config.batch].tolist())


def loudness(samples: Samples) -> Tensor:
    """Compute the symbols' standard deviation around 0, (C,); 1 for a channel that is silent."""
    records = next(samples.batches(SCALE_RECORDS))
    values = records["symbols"].astype(np.float32) - ZERO
    scale = np.sqrt((values**2).mean((0, 2, 3)))
    return torch.from_numpy(np.where(scale > 0.1, scale, 1.0).astype(np.float32))


def batch_of(records: Records, scale: Tensor) -> Batch:
    """Turn records into what the linear map and the inverter take."""
    return as_input(records["symbols_hat"], records["payload_bytes"], scale), as_pixels(records["pixels"])


class Perceived:
    """Measures how far two photos are apart for the network: its features at the bundle's cut, over their spread."""

    def __init__(self, classifier: Classifier, cut: str, side: int) -> None:
        size = classifier.preprocess.size
        self.head = split(classifier.module, cut, (3, size, size)).head.eval().requires_grad_(False)
        self.mean = torch.tensor(classifier.mean)[:, None, None] / 255
        self.std = torch.tensor(classifier.std)[:, None, None] / 255
        try:
            with torch.no_grad():
                self.features(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError) as error:
            what = f"its head takes no photos of {side} x {side} ({reason(error)})"
            raise InputError(f"{classifier.name}: {what}; give --perceptual 0") from error

    def features(self, pixels: Tensor) -> Tensor:
        """Compute what is at the cut, of (B, 3, side, side), 0..1."""
        return cast(Tensor, self.head((pixels - self.mean) / self.std))

    def __call__(self, photo_hat: Tensor, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(pixels)
        return F.l1_loss(self.features(photo_hat), wanted) / wanted.std().clamp_min(1e-6)


def as_input(symbols: NDArray[np.uint8], payload_bytes: NDArray[np.integer], scale: Tensor) -> Tensor:
    """Divide symbols (B, C, h, w) by `scale` (C,), and add a plane of the sizes (B,) -> (B, C + 1, h, w) float32."""
    values = (torch.from_numpy(symbols).float() - ZERO) / scale[:, None, None]
    sizes = torch.from_numpy(np.log2(payload_bytes.astype(np.float32) + 1) / BYTES_SCALE)
    return torch.cat([values, sizes[:, None, None, None].expand(-1, 1, *values.shape[2:])], 1)


def as_pixels(pixels: NDArray[np.uint8]) -> Tensor:
    """Turn (B, side, side, 3) uint8 into (B, 3, side, side), 0..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Linear:
    """A fitted linear map from what was sent to pixels."""

    weight: Tensor  # (3 * tile * tile, C + 1, REACH, REACH) float32, channels as pixel_shuffle takes them
    bias: Tensor  # (3 * tile * tile,)
    penalty: float

    def __call__(self, sent: Tensor) -> Tensor:
        """Map (B, C + 1, h, w) to (B, 3, side, side), about 0..1."""
        tile = round((len(self.bias) / 3) ** 0.5)
        return F.pixel_shuffle(F.conv2d(padded(sent), self.weight, self.bias), tile)


def fit_linear(batches: Iterable[Batch], count: int) -> Fits:
    """Fit on `count` batches, a few of which choose the penalty; where there is one alone, it does both."""
    left = iter(batches)
    held_out = list(islice(left, max(1, min(MEASURED, count // 4))))
    return fit(left if count > 1 else held_out, held_out)


@dataclass(frozen=True)
class Fits:
    """Two maps that were fitted on the same photos."""

    tile: Linear  # a tile of what is sent for its place alone
    around: Linear  # and for the places around it


@torch.no_grad()
def fit(batches: Iterable[Batch], held_out: Sequence[Batch]) -> Fits:
    """Fit both maps, reading `batches` once; the penalty is that of the least squared error on `held_out`."""
    rows, products, outputs = 0, torch.zeros(()), torch.zeros(())
    channels = 0
    for sent, pixels in batches:
        channels, tile = sent.shape[1], pixels.shape[2] // sent.shape[2]
        x, y = patches(sent), tiles(pixels, tile)
        rows += len(x)
        products = products + (x.T @ x).double()
        outputs = outputs + (x.T @ y).double()
    assert rows, "nothing to fit"

    def error(linear: Linear) -> float:
        return sum(F.mse_loss(linear(sent).clamp(0, 1), pixels).item() for sent, pixels in held_out)

    every = torch.arange(len(products))
    alone = torch.cat([torch.arange(channels) * REACH**2 + REACH**2 // 2, every[-1:]])
    tile_map, around = (
        min((solve(products / rows, outputs / rows, penalty, kept) for penalty in PENALTIES), key=error)
        for kept in (alone, every)
    )
    return Fits(tile_map, around)


def solve(products: Tensor, outputs: Tensor, penalty: float, kept: Tensor) -> Linear:
    """Solve means of x x' (d + 1, d + 1) and x y' (d + 1, 3 * tile * tile), x ending in 1, for the inputs `kept`."""
    weights = torch.full((len(kept),), penalty, dtype=torch.float64, device=products.device)
    weights[-1] = 1e-9  # the mean is free
    solved = torch.zeros_like(outputs)
    solved[kept] = torch.linalg.solve(products[kept][:, kept] + torch.diag(weights), outputs[kept])
    weight = solved[:-1].T.reshape(outputs.shape[1], -1, REACH, REACH)
    return Linear(weight.float().contiguous(), solved[-1].float(), penalty)


def patches(sent: Tensor) -> Tensor:
    """Unfold (B, C, h, w) to (B * h * w, C * REACH * REACH + 1), the last of them 1."""
    x = F.unfold(padded(sent), REACH).transpose(1, 2).flatten(0, 1)
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def tiles(pixels: Tensor, tile: int) -> Tensor:
    """Cut (B, 3, side, side) into (B * h * w, 3 * tile * tile), where h is side / tile."""
    return F.pixel_unshuffle(pixels, tile).flatten(2).transpose(1, 2).flatten(0, 1)


def padded(sent: Tensor) -> Tensor:
    return F.pad(sent, (REACH // 2,) * 4, mode="replicate")


class Inverter(nn.Module):
    """The network drawn above. `grid` and `side` are the heights of input and photo, a power of 2 apart."""

    def __init__(self, linear: Linear, grid: int, side: int, *, width: int, blocks: int) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight)
        self.register_buffer("bias", linear.bias)
        self.penalty = linear.penalty
        sizes = [grid]
        while sizes[-1] * 8 <= side:
            sizes.append(sizes[-1] * 2)
        channels = [width * min(MOST_TIMES, max(1, side // (4 * size))) for size in sizes]
        layers: list[nn.Module] = [nn.Conv2d(linear.weight.shape[1], channels[0], 3, padding=1), nn.GELU()]
        for number, count in enumerate(channels):
            if number:
                layers.append(Larger(channels[number - 1], count))
            layers += [Block(count) for _ in range(max(1, blocks >> number))]
        tile = side // sizes[-1]
        last = nn.Conv2d(channels[-1], 3 * tile * tile, 3, padding=1)
        nn.init.normal_(last.weight, std=1e-3)  # of zeros, the other layers' first gradients would be nothing
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.learned = nn.Sequential(*layers, last, nn.PixelShuffle(tile))

    @property
    def fitted(self) -> Linear:
        """The linear map that the network starts from."""
        return Linear(self.get_buffer("weight"), self.get_buffer("bias"), self.penalty)

    def forward(self, sent: Tensor) -> Tensor:
        """Rebuild (B, C + 1, grid, grid) as (B, 3, side, side), about 0..1."""
        with torch.no_grad():
            linear = self.fitted(sent)
        return cast(Tensor, linear + self.learned(sent))


def inverter_of(linear: Linear, samples: Samples, config: PrivacyConfig) -> Inverter:
    _, grid, _ = samples.dtype["symbols"].shape
    inverter = Inverter(linear, grid, samples.dtype["pixels"].shape[0], width=config.width, blocks=config.blocks)
    inverter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # or sums are rounded otherwise
    return inverter


class Block(nn.Module):
    """Two convolutions with the mean of the whole picture between them, around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)
        self.whole = nn.Conv2d(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)  # so that many blocks begin as the identity, or nearly

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.norm(self.first(x)))
        inner = inner + self.whole(inner.mean((2, 3), keepdim=True))
        return cast(Tensor, x + self.second(inner))


class Larger(nn.Module):
    """Twice the size: (B, channels, h, w) -> (B, fewer, 2h, 2w)."""

    def __init__(self, channels: int, fewer: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * fewer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.pixel_shuffle(self.conv(x), 2))


def side_of(grid: int, most: int) -> int:
    """Double `grid` as often as it stays at `most` or below."""
    return grid << max(0, (most // grid).bit_length() - 1)
