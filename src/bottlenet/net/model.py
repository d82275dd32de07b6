"""A classifier with a bottleneck unit in the middle.

               device                                                      server
               ------                                                      ------
    pixels -> [head] -> features -> [reduction] -> latent -> [quantizer] -> symbols -> [codec] -> payload
                                                                                                    |
    scores <- [tail] <- features_hat <- [restoration] <- latent_hat <- [quantizer] <- symbols_hat <-+

`forward` trains, with the real codec inside (paper, compression-aware training: its gradient is the identity);
`compress` and `decompress` are the two halves of the same path: `decompress(compress(x))` equals `forward(x)` in eval
mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from bottlenet.net.cut import Cut, Layout, split
from bottlenet.net.detectors import RowsToBoxes
from bottlenet.net.models import Classifier
from bottlenet.net.unit import LearnedReduction, NestedQuantizer, Prior, Quantizer, steps_within
from bottlenet.task import Classification, Task
from bottlenet.wire.codecs import Codec


class BottleNet(nn.Module):
    """head, reduction, quantizer, codec, restoration, tail: see the drawing above."""

    origin: Origin | None = None
    head_size: int = 0  # side of the photo that the head takes, pixels; 0 where nobody said
    # The exit's answer counts where the largest of softmax(scores / temperature) is at least `sure`.
    sure, temperature = 1.0, 1.0
    # Dimensions of the features, outermost in memory first, of the head's and of the tail's: where a layer takes a view
    # of its input, other strides than those that it was written for are an error. None: any.
    head_order: tuple[int, ...] | None = None
    tail_order: tuple[int, ...] | None = None

    def __init__(
        self,
        head: nn.Module,
        reduction: nn.Module,
        quantizer: Quantizer | NestedQuantizer,
        codec: Codec,
        restoration: nn.Module,
        tail: nn.Module,
        prior: Prior | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.reduction = reduction
        self.quantizer = quantizer
        self.codec = codec
        self.restoration = restoration
        self.tail = tail
        self.prior = prior  # what a byte costs while training, for the entropy codec
        self.exit: nn.Module | None = None  # features at the cut -> scores: how the device answers by itself
        self.adversary: nn.Module | None = None  # who rebuilds photos while training, see `train.adversary`

    @property
    def learned_and_reduction(self) -> tuple[nn.Module, nn.Module]:
        """The layers of the head that joined the unit, if any did, and the reduction behind them."""
        whole = self.reduction
        return (whole.learned, whole.reduction) if isinstance(whole, LearnedReduction) else (nn.Identity(), whole)

    @property
    def task(self) -> Task:
        """What the network answers with; one label where it has no origin."""
        return Classification() if self.origin is None else self.origin.classifier.task

    @property
    def answer(self) -> RowsToBoxes | None:
        """What makes boxes of a detector's rows behind the tail; None where nothing needs to."""
        return None if self.origin is None else self.origin.classifier.answer

    @property
    def features_alone(self) -> bool:
        """True where a unit has only the features at its cut to learn from."""
        return self.origin is not None and self.origin.classifier.features_alone

    @property
    def layout(self) -> Layout | None:
        """How the features at the cut lie; None where it has no origin."""
        return None if self.origin is None else self.origin.cut.layout

    @torch.no_grad()
    def keep_strides(self) -> None:
        """Give the layers behind the head features whose strides are those of the uncut network."""
        photos = torch.zeros(2, self.head_size, self.head_size, 3, dtype=torch.uint8)
        features = self.head(photos.to(next(self.parameters()).device))
        learned, _ = self.learned_and_reduction
        self.head_order, self.tail_order = order_of(features), order_of(learned(features))

    @torch.no_grad()
    def use_channels_last(self) -> None:
        """Lay weights and maps of features out as convolutions are fastest on, unless a layer can't take that."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.layout is None or self.layout.kind not in ("planes", "set"):
            return
        photos = torch.zeros(2, self.head_size, self.head_size, 3, dtype=torch.uint8)
        features = self.head(photos.to(next(self.parameters()).device))
        orders = self.head_order, self.tail_order
        self.head_order = CHANNELS_LAST if features.ndim == 4 else orders[0]
        self.tail_order = CHANNELS_LAST if self.layout.kind == "planes" else orders[1]
        training = self.training
        try:
            for batch in (features, features[:1]):
                self.eval().forward_features(batch, codec_in_loop=False)
        except RuntimeError:  # such as of `view`, whose input has to lie in memory in the order of its dimensions
            self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self.head_order, self.tail_order = orders
        self.train(training)

    def forward(self, pixels: Tensor) -> Output:
        """Run (B, S, S, 3) uint8 through everything, the real codec included."""
        return self.forward_features(self.head(pixels))

    def forward_features(self, features: Tensor, *, codec_in_loop: bool = True, with_tail: bool = True) -> Output:
        """Run all behind the head; without the codec in the loop symbols stay as they are (naive training)."""
        latent, exit_scores = self._device(features)
        with in_float32(latent):
            symbols = self.quantizer.quantize(latent)
            payload_bytes = None
            if codec_in_loop:
                symbols, payload_bytes = self._through_codec(symbols)
            latent_hat = self.quantizer.dequantize(symbols)
        features_hat, scores = self._restore(latent_hat, with_tail)
        continuous = self.quantizer.continuous(latent)
        return Output(scores, features_hat, latent_hat, continuous, payload_bytes, exit_scores)

    def forward_within(self, features: Tensor, budget_bytes: Tensor, *, with_tail: bool = True) -> Output:
        """Do the same with payloads cut to `budget_bytes` (B,); `payload_bytes` is the prior's, with a gradient."""
        assert self.prior is not None, "only for the entropy codec"
        assert isinstance(self.quantizer, NestedQuantizer)
        latent, exit_scores = self._device(features)
        with in_float32(latent):
            steps = steps_within(latent, self.prior, budget_bytes)
            known = self.quantizer.quantize_to(latent, steps)
            payload_bytes = self.prior.bits(known, steps).sum(1) / 8
        features_hat, scores = self._restore(known, with_tail)
        continuous = self.quantizer.continuous(latent)
        return Output(scores, features_hat, known, continuous, payload_bytes, exit_scores)

    def _device(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the latent from a frozen head's features, and the exit's scores where there is an exit."""
        learned, reduction = self.learned_and_reduction
        features = learned(in_order(features.float(), self.head_order))  # layers of the head have its precision
        with in_float32(features):
            features = features.float()
            latent: Tensor = reduction(features)
            exit_scores = None if self.exit is None else self.exit(in_order(features, self.tail_order))
        return latent, exit_scores

    def exit_scores(self, features: Tensor) -> Tensor:
        """Compute the exit's scores (B, classes) from a frozen head's features."""
        assert self.exit is not None
        learned, _ = self.learned_and_reduction
        features = learned(in_order(features.float(), self.head_order))
        scores: Tensor = self.exit(in_order(features, self.tail_order))
        return scores.float()

    def compress(self, pixels: Tensor) -> list[bytes]:
        """Encode (B, S, S, 3) uint8 as one payload a photo."""
        symbols = self.quantizer.quantize(self.reduction(in_order(self.head(pixels), self.head_order)))
        return [self.codec.encode(one) for one in to_uint8(symbols)]

    def decompress(self, payloads: Sequence[bytes]) -> Tensor:
        """Decode payloads to scores (B, classes). PayloadError: one that does not decode."""
        symbols = np.stack([self.codec.decode(payload) for payload in payloads])
        device = next(self.restoration.parameters()).device
        _, scores = self._restore(self.quantizer.dequantize(torch.from_numpy(symbols).to(device).float()))
        return scores

    def _through_codec(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Run the real codec forward, the identity backward (straight through)."""
        decoded, payload_bytes = self.codec.round_trip(to_uint8(symbols))
        symbols_hat = torch.from_numpy(decoded).to(symbols.device).float()
        if symbols.requires_grad:
            symbols_hat = symbols + (symbols_hat - symbols).detach()
        return symbols_hat, torch.from_numpy(payload_bytes).to(symbols.device)

    def _restore(self, latent_hat: Tensor, with_tail: bool = True) -> tuple[Tensor, Tensor]:
        with in_float32(latent_hat):
            features_hat = self.restoration(latent_hat)
        return features_hat, self.scores(features_hat) if with_tail else features_hat.new_empty(len(features_hat), 0)

    def scores(self, features: Tensor) -> Tensor:
        """Run the tail: features -> scores (B, classes) float32, or the output of another task."""
        scores: Tensor = self.tail(in_order(features, self.tail_order))
        return scores.float()


@dataclass(frozen=True)
class Output:
    """What the network gives for one batch, and what was measured on the way."""

    scores: Tensor  # (B, classes) float32, or what the tail of another task gives; (B, 0) where it did not run
    features_hat: Tensor  # float32, as the features at the cut
    latent_hat: Tensor  # (B, c', h, w) what the server knows of the latent
    continuous: Tensor  # (B, c', h, w) symbols before rounding, for a rate estimate
    payload_bytes: Tensor | None  # (B,) int64, or float where it is an estimate; None where no codec ran
    exit_scores: Tensor | None = None  # (B, classes) float32 that the device has by itself; None without an exit


@dataclass(frozen=True)
class Origin:
    """What a BottleNet was built from, for the bundle's manifest."""

    classifier: Classifier  # as it was before anyone cut it
    cut: Cut
    unit: str

    @cached_property
    def uncut_flops(self) -> float:
        """Multiplications and additions of the uncut network, on a photo of its own size."""
        whole = split(self.classifier.module, self.cut.name, self.classifier.input_size).cut
        return whole.head_flops / whole.head_flops_share


CHANNELS_LAST = (0, 2, 3, 1)


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """List the dimensions, outermost in memory first."""
    return tuple(int(dimension) for dimension in np.argsort([-stride for stride in tensor.stride()], kind="stable"))


def in_order(tensor: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """Lay a tensor out with its dimensions in that order; the values stay the same."""
    if order is None or (tensor.is_contiguous() and order == tuple(range(tensor.ndim))):
        return tensor
    back = sorted(range(tensor.ndim), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)


def in_float32(tensor: Tensor) -> torch.autocast:
    """Turn autocast off: in bfloat16, which has 8 bits, symbols of 8 bits would be rounded twice."""
    return torch.autocast(tensor.device.type, enabled=False)


def to_uint8(symbols: Tensor) -> np.ndarray:
    """Convert whole numbers 0..255 from float to (B, c', h, w) uint8 on the CPU, where codecs run."""
    return symbols.detach().to("cpu", torch.uint8).contiguous().numpy()
