"""The bottleneck unit: what is trained between head and tail.

    features (B, c, H, W) -> Reduction -> latent (B, c', h, w) -> Quantizer.quantize -> symbols, 0..255
                                                                                            ~ codec ~
    features_hat <- Restoration <- latent_hat <- Quantizer.dequantize <-------------- symbols_hat

`Quantizer` rounds over one range. `NestedQuantizer` is for a payload that may be cut anywhere: every channel is sent
coarse first, then finer.

    latent (B, C, h, w) -> round to multiples of 81, 27, 9, 3, 1 -> what a prefix of so many passes knows

A pass is one channel at one step. The passes go from the coarsest step to the finest, and through the channels in
their order within a step. Multiples of a step are the middles of the intervals of three finer steps: what is known is
always the latent, rounded. A network that is trained with random prefixes learns by itself to put what matters most
into large values and early channels.

Two estimates of the bytes have a gradient. `Prior` is a density for each channel of the latent, for the entropy codec:

    P(value, step) = F(value + step / 2) - F(value - step / 2)         bits = -log2 P

F is a mixture of three logistic distributions a channel, and learns with the network (Balle et al., ICLR 2018, section
6.1, has a network in its place). One F serves all steps: what is sent coarse first costs in all what it costs at the
fine step. The codec's integer tables are counted on the trained network's own symbols (`wire.entropy`). `JpegRate`
transforms the mosaic as JPEG does, and counts about log2(1 + |z|) bits for each coefficient. `joined_bytes` has the
codec's exact value and the estimate's gradient, scaled to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.net.cut import Layout
from bottlenet.records import check_integer
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import MAX_VALUE, STEPS, ZERO


@dataclass(frozen=True)
class UnitSpec:
    """The numbers of a unit: c, c', s, and the size of the features."""

    in_channels: int  # c, channels of the features at the cut
    channels: int  # c', channels of the latent
    stride: int  # s, the same for height and width
    size: tuple[int, int]  # H, W of the features at the cut
    most: int = 0  # channels that say all of the features; 0: as many as a patch of them has numbers

    def __post_init__(self) -> None:
        if min(self.in_channels, self.channels, self.stride) < 1:
            raise InputError(f"a unit of {self.channels} channels at stride {self.stride}: both must be 1 or more")
        if self.stride > min(self.size):
            raise InputError(f"stride {self.stride} is larger than the features, {self.size[0]} x {self.size[1]}")
        if self.channels > (most := self.most or self.in_channels * self.stride**2):
            features = f"the features have, {self.in_channels} x {self.size[0]} x {self.size[1]}"
            given = f"{self.channels} channels at stride {self.stride}"
            raise InputError(f"{given} are more than {features}; give {most} or fewer")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c', h, w) of the latent."""
        height, width = (-(-side // self.stride) for side in self.size)
        return self.channels, height, width


def norm_relu(channels: int) -> list[nn.Module]:
    """Use ReLU6 in place of the paper's ReLU: bounded values need no outlier-proof range."""
    return [nn.BatchNorm2d(channels), nn.ReLU6(inplace=False)]


def kernel_size(stride: int) -> int:
    """Return an odd size, larger than the stride by 2 or 3; half of it, rounded down, is the padding."""
    return 2 * (stride // 2) + 3


class PaperReduction(nn.Sequential):
    """(B, c, H, W) -> (B, c', h, w): a convolution with a kernel larger than s, then 1x1; norm and ReLU after each."""

    def __init__(self, spec: UnitSpec) -> None:
        c, s, kernel = spec.in_channels, spec.stride, kernel_size(spec.stride)
        super().__init__(
            nn.Conv2d(c, c, kernel, stride=s, padding=kernel // 2, bias=False),
            *norm_relu(c),
            nn.Conv2d(c, spec.channels, kernel_size=1, bias=False),
            *norm_relu(spec.channels),
        )
        self.stride, self.channels = s, spec.channels


class PaperRestoration(nn.Sequential):
    """The mirror, (B, c', h, w) -> (B, c, H, W). The last layer has no norm or activation: features may be negative."""

    def __init__(self, spec: UnitSpec) -> None:
        c, s, kernel = spec.in_channels, spec.stride, kernel_size(spec.stride)
        pad = kernel // 2
        # what the transposed convolution must add to land on the size that the reduction started from
        sides = zip(spec.size, spec.latent_shape[1:], strict=True)
        rows, columns = (wanted - ((side - 1) * s - 2 * pad + kernel) for wanted, side in sides)
        super().__init__(
            nn.Conv2d(spec.channels, c, kernel_size=1, bias=False),
            *norm_relu(c),
            nn.ConvTranspose2d(c, c, kernel, stride=s, padding=pad, output_padding=(rows, columns)),
        )


class ResidualReduction(nn.Module):
    """linear(x) + branch(x): (B, c, H, W) -> (B, c', h, w).

    The linear path is a convolution over s x s patches that `build.start_from_components` sets to the principal
    components; the branch is non-linear, sees a neighbourhood larger than the stride, and adds nothing at first.
    """

    def __init__(self, spec: UnitSpec) -> None:
        super().__init__()
        c, s = spec.in_channels, spec.stride
        self.linear = nn.Conv2d(c, spec.channels, s, stride=s)
        self.branch = nn.Sequential(
            nn.Conv2d(c, 2 * c, 1),
            nn.ReLU6(),
            nn.Conv2d(2 * c, 2 * c, s + 4, stride=s, padding=2, groups=2 * c),
            nn.ReLU6(),
            zero_init(nn.Conv2d(2 * c, spec.channels, 1)),
        )

    def forward(self, features: Tensor) -> Tensor:
        padded = pad_to_multiple(features, self.linear.stride[0])
        return cast(Tensor, self.linear(padded) + self.branch(padded))


class ResidualRestoration(nn.Module):
    """The mirror: linear(x) + branch(x): (B, c', h, w) -> (B, c, H, W)."""

    def __init__(self, spec: UnitSpec) -> None:
        super().__init__()
        c, s = spec.in_channels, spec.stride
        self.size = spec.size
        self.linear = nn.ConvTranspose2d(spec.channels, c, s, stride=s)
        self.branch = nn.Sequential(
            nn.Conv2d(spec.channels, 2 * c, 1),
            nn.ReLU6(),
            *(layer for _ in range(2) for layer in depthwise_separable(2 * c)),
            zero_init(nn.ConvTranspose2d(2 * c, c, s, stride=s)),
        )

    def forward(self, latent_hat: Tensor) -> Tensor:
        features_hat: Tensor = self.linear(latent_hat) + self.branch(latent_hat)
        height, width = self.size
        return features_hat[:, :, :height, :width]


class LearnedReduction(nn.Module):
    """The end of the head, which learns too, before a reduction: (B, c0, H0, W0) -> (B, c', h, w).

    Features made to be classified are not features made to be sent. What stands before the cut, started as the
    classifier's own layers, learns to gather what is worth sending (Matsubara et al., "Head network distillation",
    IEEE Access 2020, trains a head of its own for this).
    """

    def __init__(self, learned: nn.Module, reduction: nn.Module) -> None:
        super().__init__()
        self.learned, self.reduction = learned, reduction

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.reduction(self.learned(features)))


class DividedTail(nn.Module):
    """A tail that learns at its start; behind that it is as published, stored once for tail, exit and uncut network."""

    def __init__(self, learned: nn.Module, published: nn.Module) -> None:
        super().__init__()
        self.learned, self.published = learned, published

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.published(self.learned(features)))


class Enlarged(nn.Module):
    """A restoration, enlarged to the size that the tail learned at: (B, c', h, w) -> (B, c, H, W).

        latent_hat -> restoration -> (B, c, smaller) -> bilinear -+----------(+)-> features_hat
                                                                  `-> branch -^

    A head that takes a smaller photo gives smaller features, in which objects are smaller than the tail knows them. The
    branch adds nothing at first; it learns what a head on the larger photo would have given.
    """

    def __init__(self, restoration: nn.Module, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.restoration, self.size = restoration, size
        self.branch = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1),
            nn.ReLU6(),
            *(layer for _ in range(2) for layer in depthwise_separable(2 * channels)),
            zero_init(nn.Conv2d(2 * channels, channels, 1)),
        )

    def forward(self, latent_hat: Tensor) -> Tensor:
        features = F.interpolate(self.restoration(latent_hat), size=self.size, mode="bilinear")
        return cast(Tensor, features + self.branch(features))


def depthwise_separable(channels: int) -> tuple[nn.Module, ...]:
    """Convolve 5x5 in each channel, then 1x1 across them: dense 5x5 kernels take 25 times the work and learn worse."""
    return nn.Conv2d(channels, channels, 5, padding=2, groups=channels), nn.Conv2d(channels, channels, 1), nn.ReLU6()


class GridReduction(nn.Module):
    """A reduction of features that are no planes: features -> grid -> latent (B, c', h, w)."""

    def __init__(self, layout: Layout, reduction: nn.Module) -> None:
        super().__init__()
        self.layout, self.reduction = layout, reduction

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.reduction(self.layout.to_grid(features)))


class GridRestoration(nn.Module):
    """Its mirror: latent (B, c', h, w) -> grid -> features, with the extra tokens made again."""

    def __init__(self, layout: Layout, restoration: nn.Module) -> None:
        super().__init__()
        self.layout, self.restoration = layout, restoration
        channels, extra = layout.grid[0], layout.extra
        if extra:
            self.token = nn.Parameter(torch.zeros(extra, channels))
            self.from_places = nn.Linear(channels, extra * channels, bias=False)
            nn.init.zeros_(self.from_places.weight)

    def forward(self, latent_hat: Tensor) -> Tensor:
        places = self.layout.from_grid(self.restoration(latent_hat))  # (B, H*W, C), or (B, H, W, C) without extra
        if not self.layout.extra:
            return places
        extra = self.token + self.from_places(places.mean(1)).view(-1, *self.token.shape)  # (B, extra, C)
        return torch.cat([extra, places], 1)

    def note_extra_tokens(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the grids of features (B, N, C), then set the token to the mean of the extra tokens in them."""
        photos, total = 0, torch.zeros(())
        for features in batches:
            photos, total = photos + len(features), total + features[:, : self.layout.extra].sum(0)
            yield self.layout.to_grid(features)
        if self.layout.extra:
            self.token.copy_(total / photos)


class SetReduction(nn.Module):
    """A reduction for each tensor of a set, all to one latent: row (B, N) -> the sum of theirs (B, c', h, w).

    So what the tensors have in common is sent once, and what a channel says is learned over all of them.
    """

    def __init__(self, layout: Layout, reductions: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layout, self.reductions = layout, nn.ModuleList(reductions)

    def forward(self, row: Tensor) -> Tensor:
        pairs = zip(self.reductions, self.layout.apart(row), strict=True)
        first, *others = [cast(Tensor, reduction(each)) for reduction, each in pairs]
        return sum(others, first)


class SetRestoration(nn.Module):
    """Its mirror: latent (B, c', h, w) -> each tensor, in a row (B, N)."""

    def __init__(self, layout: Layout, restorations: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layout, self.restorations = layout, nn.ModuleList(restorations)

    def forward(self, latent_hat: Tensor) -> Tensor:
        return torch.cat([restore(latent_hat).flatten(1) for restore in self.restorations], 1)

    def note_extra_tokens(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Do for each tensor what `GridRestoration` does, and yield the grids that all have in common."""
        rows = list(batches)
        for number, restoration in enumerate(self.restorations):
            if isinstance(restoration, GridRestoration):
                for _ in restoration.note_extra_tokens(self.layout.apart(row)[number] for row in rows):
                    pass
        return map(self.layout.to_grid, rows)


def pad_to_multiple(features: Tensor, stride: int) -> Tensor:
    """Add zeros at the right and lower edge, so that patches of `stride` cover everything."""
    height, width = features.shape[-2:]
    if height % stride == 0 and width % stride == 0:
        return features
    return F.pad(features, (0, -width % stride, 0, -height % stride))


def zero_init(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """Set all weights of the layer to zero."""
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def rounded(x: Tensor) -> Tensor:
    """Round, exactly, with the identity as gradient."""
    return x + (x.round() - x).detach()


class Quantizer(nn.Module):
    """latent <-> integers 0 .. 2^bits - 1, over a range that is calibrated once and kept (paper: feature compression).

    The paper takes min and max of each photo and does not say how they travel; here they belong to the unit, so
    nothing is sent beside the symbols. In training the range follows the latent as a moving average, unless it is given
    as `fixed_range`, (low, high).

    InputError: bits that are not 1 to 8.
    """

    low: Tensor
    high: Tensor
    calibrated: Tensor

    def __init__(
        self, bits: int = 8, *, fixed_range: tuple[float, float] | None = None, momentum: float = 0.02
    ) -> None:
        super().__init__()
        check_integer("a quantizer's bits", bits, 1, 8)
        self.max_symbol = 2**bits - 1
        self.fixed = fixed_range is not None
        self.momentum = momentum
        low, high = fixed_range or (0.0, 1.0)
        self.register_buffer("low", torch.tensor(float(low)))
        self.register_buffer("high", torch.tensor(float(high)))
        self.register_buffer("calibrated", torch.tensor(self.fixed))

    @torch.no_grad()
    def calibrate(self, latent: Tensor) -> None:
        """Move the range towards the smallest and largest value of `latent`; the first call sets it."""
        if self.fixed:
            return
        weight = self.momentum if bool(self.calibrated) else 1.0
        self.low.lerp_(latent.min(), weight)
        self.high.lerp_(torch.maximum(latent.max(), self.low + 1e-6), weight)
        self.calibrated.fill_(True)

    @property
    def scale(self) -> Tensor:
        """Symbols per unit of the latent."""
        return cast(Tensor, self.max_symbol / (self.high - self.low))

    def continuous(self, latent: Tensor) -> Tensor:
        """Scale to symbols without rounding: floats in 0 .. 2^bits - 1, the input of a rate estimate."""
        return ((latent - self.low) * self.scale).clamp(0, self.max_symbol)

    def quantize(self, latent: Tensor) -> Tensor:
        """Round float (B, c', h, w) to 0 .. 2^bits - 1 as float; the gradient of rounding is the identity."""
        if self.training:
            self.calibrate(latent.detach())
        return rounded(self.continuous(latent))

    def dequantize(self, symbols: Tensor) -> Tensor:
        """Return the middle of each symbol's interval, back in the latent's range."""
        return symbols / self.scale + self.low


UNKNOWN = 3.0 * STEPS[0]  # the step of a channel of which nothing has come: every value rounds to 0


class NestedQuantizer(nn.Module):
    """latent <-> symbols: a latent is already in units of the finest step, and 0 is symbol 128."""

    def continuous(self, latent: Tensor) -> Tensor:
        """Scale to symbols without rounding: floats in 7 .. 249."""
        return latent.clamp(-MAX_VALUE, MAX_VALUE) + ZERO

    def quantize(self, latent: Tensor) -> Tensor:
        """Round float (B, C, h, w) to whole numbers 7 .. 249 as float; the gradient of rounding is the identity."""
        return rounded(self.continuous(latent))

    def dequantize(self, symbols: Tensor) -> Tensor:
        """Return the rounded latent."""
        return symbols - ZERO

    def quantize_to(self, latent: Tensor, steps: Tensor) -> Tensor:
        """Round `latent` (B, C, h, w), each channel to its step (B, C) or UNKNOWN, as `dequantize` gives values."""
        step = steps[..., None, None]
        return rounded(latent.clamp(-MAX_VALUE, MAX_VALUE) / step) * step


@torch.no_grad()
def steps_within(latent: Tensor, prior: Prior, budget_bytes: Tensor) -> Tensor:
    """Find the steps (B, C) in which the first `budget_bytes` (B,) of a payload give each channel, by `prior`."""
    latent = latent.clamp(-MAX_VALUE, MAX_VALUE)
    spent = []
    for step in STEPS:
        steps = latent.new_full(latent.shape[:2], step)
        spent.append(prior.bits(torch.round(latent / step) * step, steps))
    bits = torch.stack(spent, 1)  # (B, steps, C)
    passes = bits.diff(dim=1, prepend=torch.zeros_like(bits[:, :1])).clamp_min(0)
    come = passes.flatten(1).cumsum(1).view_as(passes) <= 8 * budget_bytes[:, None, None]
    return latent.new_tensor((UNKNOWN, *STEPS))[come.sum(1)]


COMPONENTS = 3
LEAST_PROBABILITY = 1e-7


class Prior(nn.Module):
    """Three logistics a channel, (C, 3) each, whose standard deviation starts at `deviation` (C,)."""

    def __init__(self, deviation: Tensor) -> None:
        super().__init__()
        spread = deviation.clamp_min(0.05)[:, None]
        self.weight = nn.Parameter(torch.zeros(len(deviation), COMPONENTS))
        self.mean = nn.Parameter(torch.tensor([[-1.0, 0.0, 1.0]]) * spread)
        # a narrow one between two wide ones; 0.55 is about the scale of a logistic of deviation 1
        self.log_scale = nn.Parameter((0.55 * spread).log() + torch.tensor([[0.3, -0.7, 0.3]]))

    def bits(self, values: Tensor, steps: Tensor) -> Tensor:
        """Estimate the bits of each channel (B, C), for values (B, C, h, w) that are multiples of their step (B, C)."""
        half = steps[..., None] / 2  # (B, C, 1)
        flat = values.flatten(2)
        probability = self._cumulative(flat + half) - self._cumulative(flat - half)
        return -torch.log2(probability.clamp_min(LEAST_PROBABILITY)).sum(2)

    def _cumulative(self, x: Tensor) -> Tensor:
        """Evaluate F: (B, C, n) -> (B, C, n)."""
        z = (x[..., None] - self.mean[:, None]) * torch.exp(-self.log_scale[:, None])
        return (torch.sigmoid(z) * self.weight.softmax(1)[:, None]).sum(3)


BLOCK = 8  # pixels, the side of what JPEG transforms at once
# ITU-T T.81, table K.1 (luminance), in row order; libjpeg scales it by the quality
LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


class JpegRate(nn.Module):
    """symbols before rounding (B, c', h, w) -> estimated bits (B,)."""

    index: Tensor
    kernel: Tensor

    def __init__(self, mosaic: Mosaic, quality: int) -> None:
        super().__init__()
        rows, cols = mosaic.picture_shape
        index = np.pad(mosaic.index, ((0, -rows % BLOCK), (0, -cols % BLOCK)), mode="edge")
        self.register_buffer("index", torch.from_numpy(index), persistent=False)
        kernel = torch.from_numpy(block_transform(quality)).float().reshape(BLOCK**2, 1, BLOCK, BLOCK)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, symbols: Tensor) -> Tensor:
        picture = symbols.flatten(1)[:, self.index][:, None]  # (B, 1, rows, cols)
        z = F.conv2d(picture - 128, self.kernel, stride=BLOCK)  # (B, 64, rows/8, cols/8), in steps
        # quadratic below half a step, where JPEG rounds to zero anyway; logarithmic above, as Huffman codes are
        return 0.5 * torch.log2(1 + (2 * z) ** 2).sum(dim=(1, 2, 3))


def joined_bytes(payload_bytes: Tensor, estimated_bits: Tensor) -> Tensor:
    """Return the batch's mean bytes (B,) with the gradient of the estimated bits (B,), scaled to that value."""
    actual = payload_bytes.to(estimated_bits).mean()
    estimate = estimated_bits.mean()
    return estimate * (actual / estimate.detach().clamp_min(1e-6))


def block_transform(quality: int) -> np.ndarray:
    """Build (64 coefficients, 64 pixels), which turns a block, less 128, into coefficients in units of their steps."""
    dct, steps = dct_matrix(), quantization_table(quality)
    rows: np.ndarray = np.einsum("ui,vj->uvij", dct, dct) / steps[:, :, None, None]
    return rows.reshape(BLOCK**2, BLOCK**2)


def dct_matrix() -> np.ndarray:
    """Build the (8, 8) orthonormal DCT-II: row u is the u-th cosine (ITU-T T.81, annex A)."""
    u, x = np.mgrid[0:BLOCK, 0:BLOCK]
    return cast(np.ndarray, np.cos((2 * x + 1) * u * math.pi / (2 * BLOCK)) * np.where(u == 0, math.sqrt(0.5), 1.0) / 2)


def quantization_table(quality: int) -> np.ndarray:
    """Scale table K.1 as libjpeg does: (8, 8) float64, in pixel units. InputError: `quality` is not 1 to 100."""
    check_integer("JPEG quality", quality, 1, 100)
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return cast(np.ndarray, np.clip((np.asarray(LUMINANCE_TABLE) * percent + 50) // 100, 1, 255).astype(np.float64))
