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

import numpy as np
import torch
from torch import Tensor, nn

from bottlenet.net.cut import Cut
from bottlenet.net.models import Classifier
from bottlenet.net.unit import NestedQuantizer, Prior, Quantizer, steps_within
from bottlenet.wire.codecs import Codec
from bottlenet.wire.entropy import accepted


@dataclass(frozen=True)
class Output:
    """What the network says of one batch, and what was measured on the way."""

    scores: Tensor  # (B, classes) float32, or what the tail of another task gives; (B, 0) where it did not run
    features_hat: Tensor  # float32, as the features at the cut
    latent_hat: Tensor  # (B, c', h, w) what the server knows of the latent
    continuous: Tensor  # (B, c', h, w) symbols before rounding, for a rate estimate
    payload_bytes: Tensor | None  # (B,) int64, or float where it is an estimate; None where no codec ran


@dataclass(frozen=True)
class Origin:
    """What a BottleNet was made of; a bundle tells it on."""

    classifier: Classifier  # as it was before anyone cut it
    cut: Cut
    unit: str


class BottleNet(nn.Module):
    """head, reduction, quantizer, codec, restoration, tail: see the drawing above."""

    origin: Origin | None = None
    head_size: int = 0  # side of the photo that the head takes, pixels; 0 where nobody said

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
        self.adversary: nn.Module | None = None  # who rebuilds photos while training, see `train.adversary`

    def forward(self, pixels: Tensor) -> Output:
        """(B, S, S, 3) uint8 -> scores (B, classes), and what was measured on the way."""
        return self.forward_features(self.head(pixels))

    def forward_features(self, features: Tensor, *, codec_in_loop: bool = True, with_tail: bool = True) -> Output:
        """Features -> the same, from the cut on: a frozen head's features need computing only once.

        Without the codec in the loop the symbols go on as they are (the paper's naive training).
        """
        with in_float32(features):
            latent = self.reduction(features.float())
            symbols = self.quantizer.quantize(latent)
            payload_bytes = None
            if codec_in_loop:
                symbols, payload_bytes = self._through_codec(symbols)
            latent_hat = self.quantizer.dequantize(symbols)
        features_hat, scores = self._restore(latent_hat, with_tail)
        return Output(scores, features_hat, latent_hat, self.quantizer.continuous(latent), payload_bytes)

    def forward_within(self, features: Tensor, budget_bytes: Tensor, *, with_tail: bool = True) -> Output:
        """The same for payloads of the entropy codec cut to `budget_bytes` (B,), all of it estimated by `prior`.

        `payload_bytes` is float and has a gradient: a latent is worth its bytes, or not.
        """
        assert self.prior is not None, "only for the entropy codec"
        assert isinstance(self.quantizer, NestedQuantizer)
        with in_float32(features):
            latent = self.reduction(features.float())
            steps = steps_within(latent, self.prior, budget_bytes)
            known = self.quantizer.quantize_to(latent, steps)
            payload_bytes = self.prior.bits(known, steps).sum(1) / 8
            features_hat = self.restoration(known)
        scores = self._scores(features_hat, with_tail)
        return Output(scores, features_hat, known, self.quantizer.continuous(latent), payload_bytes)

    def compress(self, pixels: Tensor) -> list[bytes]:
        """(B, S, S, 3) uint8 -> one payload a photo."""
        symbols = self.quantizer.quantize(self.reduction(self.head(pixels)))
        return [self.codec.encode(one) for one in to_uint8(symbols)]

    def decompress(self, payloads: Sequence[bytes]) -> Tensor:
        """Payloads -> scores (B, classes). PayloadError: one that does not decode."""
        symbols = np.stack([accepted(found) for found in self.codec.decode_all(payloads)])
        device = next(self.restoration.parameters()).device
        _, scores = self._restore(self.quantizer.dequantize(torch.from_numpy(symbols).to(device).float()))
        return scores

    def _through_codec(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """The real codec forward, the identity backward (straight through)."""
        decoded, payload_bytes = self.codec.round_trip(to_uint8(symbols))
        symbols_hat = torch.from_numpy(decoded).to(symbols.device).float()
        if symbols.requires_grad:
            symbols_hat = symbols + (symbols_hat - symbols).detach()
        return symbols_hat, torch.from_numpy(payload_bytes).to(symbols.device)

    def _restore(self, latent_hat: Tensor, with_tail: bool = True) -> tuple[Tensor, Tensor]:
        with in_float32(latent_hat):
            features_hat = self.restoration(latent_hat)
        return features_hat, self._scores(features_hat, with_tail)

    def _scores(self, features_hat: Tensor, with_tail: bool) -> Tensor:
        return self.tail(features_hat).float() if with_tail else features_hat.new_empty(len(features_hat), 0)


def in_float32(tensor: Tensor) -> torch.autocast:
    """Without autocast: in bfloat16, which has 8 bits, symbols of 8 bits would be rounded twice."""
    return torch.autocast(tensor.device.type, enabled=False)


def to_uint8(symbols: Tensor) -> np.ndarray:
    """Whole numbers 0..255 as float -> (B, c', h, w) uint8 on the CPU, where codecs run."""
    return symbols.detach().to("cpu", torch.uint8).contiguous().numpy()
