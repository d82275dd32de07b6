"""What a byte of a learned payload costs while training: a density for each channel of the latent.

    P(value, step) = F(value + step / 2) - F(value - step / 2)         bits = -log2 P

F is a mixture of three logistic distributions a channel, and learns with the network (Balle et al., ICLR 2018, section
6.1, has a network in its place). One F serves all steps of a nested quantizer: what is sent coarse first and fine later
costs in all what it costs at the fine step. Nothing of it is in a bundle: the codec's integer tables are counted on the
trained network's own symbols (`wire.entropy`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

COMPONENTS = 3
LEAST_PROBABILITY = 1e-7


class Prior(nn.Module):
    """Three logistics a channel: `weight`, `mean` and `log_scale`, (C, 3) each.

    `deviation` (C,) is the standard deviation of each channel at the start.
    """

    def __init__(self, deviation: Tensor) -> None:
        super().__init__()
        spread = deviation.clamp_min(0.05)[:, None]
        self.weight = nn.Parameter(torch.zeros(len(deviation), COMPONENTS))
        self.mean = nn.Parameter(torch.tensor([[-1.0, 0.0, 1.0]]) * spread)
        # a narrow one between two wide ones; 0.55 is about the scale of a logistic of deviation 1
        self.log_scale = nn.Parameter((0.55 * spread).log() + torch.tensor([[0.3, -0.7, 0.3]]))

    def start_at(self, deviation: Tensor) -> None:
        """Sets everything as for another `deviation` (C,)."""
        self.load_state_dict(Prior(deviation).state_dict())

    def bits(self, values: Tensor, steps: Tensor) -> Tensor:
        """Values (B, C, h, w), multiples of their step (B, C) -> bits of each channel (B, C)."""
        half = steps[..., None] / 2  # (B, C, 1)
        flat = values.flatten(2)
        probability = self._cumulative(flat + half) - self._cumulative(flat - half)
        return -torch.log2(probability.clamp_min(LEAST_PROBABILITY)).sum(2)

    def _cumulative(self, x: Tensor) -> Tensor:
        """F: (B, C, n) -> (B, C, n)."""
        z = (x[..., None] - self.mean[:, None]) * torch.exp(-self.log_scale[:, None])
        mixed: Tensor = (torch.sigmoid(z) * self.weight.softmax(1)[:, None]).sum(3)
        return mixed
