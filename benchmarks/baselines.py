"""What others send at a cut, re-implemented for rate_accuracy.py to train and measure beside our own.

`cr_bq`: channel reduction and bit quantisation. Convolutions leave few channels, each is quantised uniformly to a few
bits over its own range, and the bits are sent as they are (Matsubara et al., "Head network distillation", IEEE Access
2020; BottleNet++, 2020).

`Entropic`: a factorised prior, uniform noise in place of rounding, loss = distortion + lmbda * bits; then the encoder
is kept, and what follows it learns from rounded symbols (Matsubara et al., "Supervised compression for
resource-constrained edge computing systems", WACV 2022: "Entropic Student").

`raw_features`: the features themselves, 8 bits or fewer, then Deflate. Nothing is trained.

What is trained has our head, our tail and the layers of our reduction and restoration, started from the same principal
components: from random weights a unit of this kind learns next to nothing in a run of this length, so it would be the
start that is compared, and not the codec. The distortion of the features is that from the uncut network's own at the
cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bottlenet.errors import InputError, PayloadError
from bottlenet.net.build import insert
from bottlenet.net.cut import split
from bottlenet.net.model import BottleNet, Origin
from bottlenet.net.models import Classifier, Normalize
from bottlenet.net.unit import Quantizer
from bottlenet.train.config import TrainConfig
from bottlenet.train.objective import WHOLE, Slice, Step, distillation, features_error, steer
from bottlenet.train.runs import Position
from bottlenet.wire.codecs import CODECS, Deflate
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import Bins

# Half the range of the best uniform quantiser of a normal variable, in standard deviations (Max, 1960, table II).
SPREAD = {1: 0.798, 2: 1.494, 3: 2.051, 4: 2.514, 5: 2.916, 6: 3.284, 7: 3.62, 8: 3.93}
# Each of a symbol's trits knows those before it, and nothing else: the symbol's own distribution, a factorised prior.
FACTORISED = Bins(state=tuple(range(1, 16)), even=(), odd=(), energy=())
NOISY_SHARE = 2 / 3  # of an `Entropic` run; in the rest the encoder is kept, and symbols are rounded
OUTSIDE = 0.0005  # of the raw features' values lie below their range, and as many above

Symbols = NDArray[np.uint8]


class ChannelQuantizer(Quantizer):
    """Each channel has its own range: mean and standard deviation, which follow the latent in training as a moving
    average.
    """

    def __init__(self, bits: int, channels: int) -> None:
        super().__init__(bits)
        self.spread = SPREAD[bits]
        self.low = torch.full((channels, 1, 1), -1.0)
        self.high = torch.full((channels, 1, 1), 1.0)

    @torch.no_grad()
    def calibrate(self, latent: Tensor) -> None:
        """Move the ranges towards those of `latent` (B, C, h, w); the first call sets them."""
        weight = self.momentum if bool(self.calibrated) else 1.0
        deviation, mean = torch.std_mean(latent, (0, 2, 3))
        reach = self.spread * deviation.clamp_min(1e-4)
        self.low.lerp_((mean - reach)[:, None, None], weight)
        self.high.lerp_((mean + reach)[:, None, None], weight)
        self.calibrated.fill_(True)


@dataclass(frozen=True)
class Packed:
    """Symbols of `bits` bits, one behind the other; the last byte is filled with zeros."""

    name: ClassVar[str] = "packed"
    code: ClassVar[int] = 15  # never on a wire
    mosaic: Mosaic
    bits: int

    @property
    def setting(self) -> int:
        return self.bits

    @property
    def payload_bytes(self) -> int:
        """Of every payload."""
        return -(-self.mosaic.symbol_count * self.bits // 8)

    def encode(self, symbols: Symbols) -> bytes:
        """InputError: another shape or dtype, or a symbol that has more bits."""
        self.mosaic.check(symbols)
        if symbols.max() >> self.bits:
            raise InputError(f"packed: a symbol is {symbols.max()}; {self.bits} bits hold up to {2**self.bits - 1}")
        return np.packbits(np.unpackbits(symbols.reshape(-1, 1), axis=1)[:, 8 - self.bits :]).tobytes()

    def decode(self, payload: bytes) -> Symbols:
        """PayloadError: another length."""
        if len(payload) != self.payload_bytes:
            raise PayloadError(f"packed payload of {len(payload)} bytes; it has {self.payload_bytes}")
        flat = np.unpackbits(np.frombuffer(payload, np.uint8), count=self.mosaic.symbol_count * self.bits)
        bits = np.pad(flat.reshape(-1, self.bits), ((0, 0), (8 - self.bits, 0)))
        return np.packbits(bits, axis=1).reshape(self.mosaic.symbols_shape)

    def round_trip(self, symbols: Symbols) -> tuple[Symbols, NDArray[np.int64]]:
        self.mosaic.check(symbols, batch=True)
        return symbols.copy(), np.full(len(symbols), self.payload_bytes, np.int64)


@dataclass(frozen=True)
class Coarse:
    """Deflate of the upper `bits` bits of each symbol; decoded to the middle of what they leave open."""

    name: ClassVar[str] = "coarse"
    code: ClassVar[int] = 14  # never on a wire
    deflate: Deflate
    bits: int

    @property
    def setting(self) -> int:
        return self.bits

    @property
    def mosaic(self) -> Mosaic:
        return self.deflate.mosaic

    def encode(self, symbols: Symbols) -> bytes:
        return self.deflate.encode((symbols >> (8 - self.bits)).astype(np.uint8))

    def decode(self, payload: bytes) -> Symbols:
        middle = (1 << (8 - self.bits)) >> 1
        return ((self.deflate.decode(payload) << (8 - self.bits)) + middle).astype(np.uint8)

    def round_trip(self, symbols: Symbols) -> tuple[Symbols, NDArray[np.int64]]:
        payloads = [self.encode(one) for one in symbols]
        return np.stack([self.decode(payload) for payload in payloads]), np.array([len(one) for one in payloads])


class WithFeatures:
    """Distillation, and how far the restored features are from the uncut network's own at the cut."""

    def __init__(self, net: BottleNet, config: TrainConfig, at: Position) -> None:
        self.net, self.config, self.at = net, config, at
        self.teacher = own_layers_before(net, config)

    def distortion(self, output: tuple[Tensor, Tensor], features: Tensor, uncut: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of (scores, features_hat), and the distillation alone (B,)."""
        scores, features_hat = output
        with torch.no_grad():
            wanted = self.teacher(features)
        distilled = distillation(scores, uncut)
        return distilled.mean() + self.config.feature_weight * features_error(features_hat, wanted).mean(), distilled

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        """Do nothing: no state is carried to the next step."""


class Reduced(WithFeatures):
    """What `cr_bq` minimises: the distortion; its bytes are fixed."""

    def step(
        self,
        features: Tensor,
        uncut: Tensor,
        labels: Sequence[int | None],
        share: float,
        batch_slice: Slice = WHOLE,
    ) -> Step:
        output = self.net.forward_features(features)
        loss, distilled = self.distortion((output.scores, output.features_hat), features, uncut)
        return Step.of(loss, distilled, output)


class Entropic(WithFeatures):
    """What `entropic` minimises: distortion + lmbda * bytes under noise, then the distortion of rounded symbols alone.

    With `target_bytes` lmbda is steered, by the bytes of rounded symbols, as in our own runs; without, it is fixed.
    """

    def step(
        self,
        features: Tensor,
        uncut: Tensor,
        labels: Sequence[int | None],
        share: float,
        batch_slice: Slice = WHOLE,
    ) -> Step:
        net, prior = self.net, self.net.prior
        assert prior is not None
        noisy = share < NOISY_SHARE
        with torch.set_grad_enabled(noisy):
            latent = net.reduction(features)
        ones = latent.new_ones(latent.shape[:2])
        with torch.no_grad():
            size = prior.bits(latent.round(), ones).sum(1) / 8
        known = latent.round()
        if noisy:
            random = torch.Generator().manual_seed(self.at.steps)  # a run that was stopped goes on as it would have
            known = latent + torch.rand(latent.shape, generator=random) - 0.5
        features_hat = net.restoration(known)
        loss, distilled = self.distortion((net.tail(features_hat), features_hat), features, uncut)
        if noisy:
            loss = loss + self.at.lmbda * prior.bits(known, ones).sum(1).mean() / 8
        return Step(loss, distilled.detach(), size)

    def after(self, distilled: Tensor, payload_bytes: Tensor, share: float) -> None:
        """Steer by the bytes of rounded symbols, as long as the encoder learns."""
        if share < NOISY_SHARE:
            steer(self.at, self.config.target_bytes, payload_bytes, share / NOISY_SHARE)


def own_layers_before(net: BottleNet, config: TrainConfig) -> nn.Module:
    """Return the classifier's own layers from where features are cached to the cut; they don't learn."""
    assert net.origin is not None
    if not config.learn_from:
        return nn.Identity()
    module = copy.deepcopy(net.origin.classifier.module)
    size = (3, net.head_size, net.head_size)
    head = split(module, config.cut, size).head
    return split(head, config.learn_from, size).tail.requires_grad_(False).eval()


def cr_bq(classifier: Classifier, config: TrainConfig, bits: int) -> BottleNet:
    """Our unit with `config.channels` channels, quantised to `bits` bits that are sent as they are."""
    net = insert(classifier, **{**config.unit_numbers(), "codec": "raw", "quality": 0})
    net.quantizer = ChannelQuantizer(bits, net.codec.mosaic.channels)
    net.codec = Packed(net.codec.mosaic, bits)
    return net


def raw_features(classifier: Classifier, cut: str, pixels: Iterable[Tensor]) -> BottleNet:
    """Send the features at `cut` in 8 bits, over the range of nearly all of their values on `pixels` (B, S, S, 3)."""
    size = classifier.preprocess.size
    halves = split(copy.deepcopy(classifier.module), cut, (3, size, size))
    head = nn.Sequential(Normalize(classifier.mean, classifier.std), halves.head).eval()
    with torch.no_grad():
        ends = [torch.stack([quantile(head(one), share) for share in (OUTSIDE, 1 - OUTSIDE)]) for one in pixels]
    low, high = torch.stack(ends).mean(0).tolist()
    channels, height, width = halves.cut.shape
    codec = Deflate(Mosaic(channels, height, width, align=1), 9)
    quantizer = Quantizer(fixed_range=(low, high))
    net = BottleNet(head, nn.Identity(), quantizer, codec, nn.Identity(), halves.tail)
    net.head_size, net.origin = size, Origin(classifier, replace(halves.cut, name=cut), "none")
    return net.eval()


def quantile(values: Tensor, share: float) -> Tensor:
    """Find the value that `share` of the others lie below."""
    flat = values.flatten()
    return flat.kthvalue(1 + round(share * (len(flat) - 1))).values


CODECS[Packed.name] = Packed  # so that a run may name it
