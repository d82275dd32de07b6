"""The basis that JPEG codes in: 8x8 cosines, divided by a step each (ITU-T T.81, annexes A and K)."""

from __future__ import annotations

import math

import numpy as np

from bottlenet.errors import InputError

BLOCK = 8
# ITU-T T.81, table K.1 (luminance), in row order; libjpeg scales it by the quality
LUMINANCE_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def quantisation_steps(quality: int) -> np.ndarray:
    """(8, 8) float64, in pixel units: libjpeg's scaling of table K.1 for `quality` 1 to 100."""
    if not 1 <= quality <= 100:
        raise InputError(f"JPEG quality {quality}: 1 to 100 are possible")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps: np.ndarray = np.clip((np.asarray(LUMINANCE_STEPS) * percent + 50) // 100, 1, 255).astype(np.float64)
    return steps


def cosine_matrix() -> np.ndarray:
    """(8, 8) orthonormal DCT-II: row u is the u-th cosine."""
    u, x = np.mgrid[0:BLOCK, 0:BLOCK]
    matrix: np.ndarray = np.cos((2 * x + 1) * u * math.pi / (2 * BLOCK)) * np.where(u == 0, math.sqrt(0.5), 1.0) / 2
    return matrix


def analysis(quality: int) -> np.ndarray:
    """(64 coefficients, 64 pixels): what turns a block, less 128, into coefficients in units of their steps."""
    cosines, steps = cosine_matrix(), quantisation_steps(quality)
    rows: np.ndarray = np.einsum("ui,vj->uvij", cosines, cosines) / steps[:, :, None, None]
    return rows.reshape(BLOCK**2, BLOCK**2)
