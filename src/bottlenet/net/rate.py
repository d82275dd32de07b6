"""How many bytes JPEG will need, as something that has a gradient.

The codec says exactly how many bytes a batch took, but not which way is down. The estimate here does: it transforms the
mosaic block by block as JPEG does, divides by the same steps, and counts about log2(1 + |z|) bits for each coefficient.
Value and slope are then joined: the loss sees the real bytes, the gradient is the estimate's, scaled to them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.net.cosine import BLOCK, analysis
from bottlenet.wire.mosaic import Mosaic


class JpegRate(nn.Module):
    """symbols before rounding (B, c', h, w) -> estimated bits (B,)."""

    index: Tensor
    kernel: Tensor

    def __init__(self, mosaic: Mosaic, quality: int) -> None:
        super().__init__()
        rows, cols = mosaic.picture_shape
        index = np.pad(mosaic.index, ((0, -rows % BLOCK), (0, -cols % BLOCK)), mode="edge")
        self.register_buffer("index", torch.from_numpy(index), persistent=False)
        kernel = torch.from_numpy(analysis(quality)).float().reshape(BLOCK**2, 1, BLOCK, BLOCK)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, symbols: Tensor) -> Tensor:
        picture = symbols.flatten(1)[:, self.index][:, None]  # (B, 1, rows, cols)
        z = F.conv2d(picture - 128, self.kernel, stride=BLOCK)  # (B, 64, rows/8, cols/8), in steps
        # quadratic below half a step, where JPEG rounds to zero anyway; logarithmic above, as Huffman codes are
        return 0.5 * torch.log2(1 + (2 * z) ** 2).sum(dim=(1, 2, 3))


def joined_bytes(payload_bytes: Tensor, estimated_bits: Tensor) -> Tensor:
    """Mean bytes of the batch: the codec's value, the estimate's gradient scaled to that value."""
    actual = payload_bytes.to(estimated_bits).mean()
    estimate = estimated_bits.mean()
    return estimate * (actual / estimate.detach().clamp_min(1e-6))
