"""How many bytes JPEG will need, as something that has a gradient.

The codec says exactly how many bytes a batch took, but not which way is down. The estimate here does: it transforms the
mosaic block by block as JPEG does, divides by the same steps, and counts about log2(1 + |z|) bits for each coefficient.
Value and slope are then joined: the loss sees the real bytes, the gradient is the estimate's, scaled to them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.wire.mosaic import Mosaic

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
    """Mean bytes of the batch: the codec's value, the estimate's gradient scaled to that value. Both (B,)."""
    actual = payload_bytes.to(estimated_bits).mean()
    estimate = estimated_bits.mean()
    return estimate * (actual / estimate.detach().clamp_min(1e-6))


def block_transform(quality: int) -> np.ndarray:
    """(64 coefficients, 64 pixels): what turns a block, less 128, into coefficients in units of their steps."""
    dct, steps = dct_matrix(), quantization_table(quality)
    rows: np.ndarray = np.einsum("ui,vj->uvij", dct, dct) / steps[:, :, None, None]
    return rows.reshape(BLOCK**2, BLOCK**2)


def dct_matrix() -> np.ndarray:
    """(8, 8) orthonormal DCT-II: row u is the u-th cosine (ITU-T T.81, annex A)."""
    u, x = np.mgrid[0:BLOCK, 0:BLOCK]
    matrix: np.ndarray = np.cos((2 * x + 1) * u * math.pi / (2 * BLOCK)) * np.where(u == 0, math.sqrt(0.5), 1.0) / 2
    return matrix


def quantization_table(quality: int) -> np.ndarray:
    """(8, 8) float64, in pixel units: libjpeg's scaling of table K.1. InputError: a `quality` that is not 1 to 100."""
    if not 1 <= quality <= 100:
        raise InputError(f"JPEG quality {quality}: 1 to 100 are possible")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps: np.ndarray = np.clip((np.asarray(LUMINANCE_TABLE) * percent + 50) // 100, 1, 255).astype(np.float64)
    return steps
