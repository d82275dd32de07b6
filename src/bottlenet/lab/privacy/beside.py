"""A JPEG of the same size, to look at beside: what who listens has where the photo itself is sent in as many bytes.

Only the scan is counted, as of the bundle's own JPEG payloads: what stands before it depends on size and quality alone,
and both sides can make it. Colour at 4:2:0; photos are made smaller until they fit, and the setting is kept that comes
nearest to the photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from bottlenet.lab.privacy.measure import psnr, resized

SIDES = (224, 160, 112, 80, 56, 40, 28, 20, 16)  # pixels, those that are not above the photo's
QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)
START_OF_SCAN = b"\xff\xda"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Fitting:
    """A JPEG that fits, and how it was made."""

    pixels: Pixels  # (side, side, 3), as large as it is compared
    scan_bytes: int
    jpeg_side: int
    quality: int


def fitting_jpeg(pixels: Pixels, budget: int, side: int) -> Fitting | None:
    """(S, S, 3) -> the JPEG of at most `budget` bytes that, made `side` pixels large, has the highest PSNR.

    None: no size and quality fits.
    """
    wanted = resized(pixels, side)
    found: list[tuple[float, Fitting]] = []
    for jpeg_side in SIDES:
        if jpeg_side > len(pixels):
            continue
        smaller = np.ascontiguousarray(shrunk(pixels, jpeg_side))
        quality = finest(smaller, budget)
        if quality is None:
            continue
        file = encoded(smaller, quality)
        made = resized(simplejpeg.decode_jpeg(file), side)
        found.append((psnr(made, wanted), Fitting(made, scan_bytes(file), jpeg_side, quality)))
    return max(found, key=lambda each: each[0])[1] if found else None


def finest(pixels: Pixels, budget: int) -> int | None:
    """The highest of QUALITIES that fits, by halving: bytes rise with quality, or nearly so."""
    low, high = 0, len(QUALITIES)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if scan_bytes(encoded(pixels, QUALITIES[middle])) <= budget else (low, middle)
    return QUALITIES[low - 1] if low else None


def encoded(pixels: Pixels, quality: int) -> bytes:
    """A whole file."""
    file: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    return file


def scan_bytes(file: bytes) -> int:
    """Bytes behind the last header, up to the end mark."""
    start = file.rindex(START_OF_SCAN)
    length = int.from_bytes(file[start + 2 : start + 4], "big")
    return len(file) - (start + 2 + length) - 2


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """Smaller, with the filter that suits that best."""
    if len(pixels) == side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
