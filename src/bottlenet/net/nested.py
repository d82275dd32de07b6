"""Quantisation for a payload that may be cut anywhere: every channel is sent coarse first, then finer.

    latent (B, C, h, w) -> round to multiples of 81, 27, 9, 3, 1 -> what a prefix of so many passes knows

A pass is one channel at one step. The passes go from the coarsest step to the finest, and through the channels in
their order within a step, so a prefix knows the first channels one step better than the others. Multiples of a step
are the middles of the intervals of three finer steps: what is known is always the latent, rounded, and a symbol that
was refined as far as its payload went needs no word about how far that was. A network that is trained with random
prefixes learns by itself to put what matters most into large values and early channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bottlenet.net.prior import Prior
from bottlenet.net.unit import RoundStraightThrough
from bottlenet.wire.contexts import MAX_VALUE, ZERO
from bottlenet.wire.tables import STEPS

UNKNOWN = 3.0 * STEPS[0]  # the step of a channel of which nothing has come: every value rounds to 0


class NestedQuantizer(nn.Module):
    """latent <-> symbols: a latent is already in units of the finest step, and 0 is symbol 128."""

    def continuous(self, latent: Tensor) -> Tensor:
        """Symbols before rounding: floats in 7 .. 249."""
        return latent.clamp(-MAX_VALUE, MAX_VALUE) + ZERO

    def quantize(self, latent: Tensor) -> Tensor:
        """float (B, C, h, w) -> whole numbers 7 .. 249 as float; the gradient of rounding is the identity."""
        rounded: Tensor = RoundStraightThrough.apply(self.continuous(latent))  # type: ignore[no-untyped-call]
        return rounded

    def dequantize(self, symbols: Tensor) -> Tensor:
        """The latent, rounded."""
        return symbols - ZERO

    def quantize_to(self, latent: Tensor, steps: Tensor) -> Tensor:
        """What is known of `latent` (B, C, h, w) with each channel at its step (B, C), or UNKNOWN: as `dequantize`."""
        step = steps[..., None, None]
        rounded: Tensor = RoundStraightThrough.apply(latent.clamp(-MAX_VALUE, MAX_VALUE) / step)  # type: ignore[no-untyped-call]
        return rounded * step


@torch.no_grad()
def steps_within(latent: Tensor, prior: Prior, budget_bytes: Tensor) -> Tensor:
    """How finely each channel is known from the first `budget_bytes` (B,) of a payload, by `prior`: steps (B, C)."""
    latent = latent.clamp(-MAX_VALUE, MAX_VALUE)
    spent = []
    for step in STEPS:
        steps = latent.new_full(latent.shape[:2], step)
        spent.append(prior.bits(torch.round(latent / step) * step, steps))
    bits = torch.stack(spent, 1)  # (B, steps, C)
    passes = bits.diff(dim=1, prepend=torch.zeros_like(bits[:, :1])).clamp_min(0)
    come = passes.flatten(1).cumsum(1).view_as(passes) <= 8 * budget_bytes[:, None, None]
    return latent.new_tensor((UNKNOWN, *STEPS))[come.sum(1)]
