"""Measure how much of a photo is in a rebuilt one: pixels, structure, and whether one can tell what, or which, it was.

A JPEG of the same size stands beside it: what an eavesdropper has where the photo itself is sent in as many bytes. Only
the scan is counted, as of the bundle's own JPEG payloads: what stands before it depends on size and quality alone, and
both sides can make it. Colour at 4:2:0; photos are made smaller until they fit, and the setting is kept that comes
nearest to the photo.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from bottlenet.records import percent
from bottlenet.runtime import InferenceSession, run_graph

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]

BATCH = 16
THUMBNAIL = 14  # pixels a side, that photos are matched by
WINDOW, SIGMA = 11, 1.5  # of SSIM, as in its paper
LEVELS = 255.0
SIDES = (224, 160, 112, 80, 56, 40, 28, 20, 16)  # pixels of a JPEG, those that are not above the photo's
QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)
START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class Quality:
    """Means over photos. Rates in percent, 0..100; None where no photo has a label."""

    psnr: float  # dB
    ssim: float  # of the luma, 1 is the same
    same_answer: float  # the uncut network gives the rebuilt photo the class that it gives the original
    right_label: float | None  # or the one that it has by its label
    matched_by_scores: float  # its original is the nearest of all, by the uncut network's scores
    matched_by_pixels: float  # the same, by thumbnails
    photos: int


@dataclass(frozen=True)
class Originals:
    """Photos that rebuilt ones are compared with."""

    pixels: Pixels  # (N, side, side, 3)
    scores: Values  # (N, classes) of the uncut network, on the photos as large as it takes them
    labels: NDArray[np.int64]  # (N,), -1 where not known
    positions: NDArray[np.integer]  # (N,) in the list of photos


class Judge:
    """Compares rebuilt photos with `originals`. `uncut` takes pixels (B, size, size, 3)."""

    def __init__(self, originals: Originals, uncut: InferenceSession, size: int) -> None:
        self.originals, self.uncut, self.size = originals, uncut, size

    def scores(self, pixels: Pixels) -> Values:
        """Run the uncut network on (N, side, side, 3), made as large as it takes them: (N, classes)."""
        found = [
            run_graph(self.uncut, pixels=np.stack([resized(one, self.size) for one in pixels[start : start + BATCH]]))
            for start in range(0, len(pixels), BATCH)
        ]
        return cast(Values, np.concatenate(found))

    def judge(self, photos: Pixels, which: Sequence[int] | None = None) -> Quality:
        """Judge (n, side, side, 3), rebuilt of the originals `which`, or of all; they are matched among all."""
        chosen = np.arange(len(self.originals.pixels)) if which is None else np.array(which)
        originals, labels = self.originals.pixels[chosen], self.originals.labels[chosen]
        scores = self.scores(photos)
        answers = scores.argmax(1)
        known = labels >= 0
        by_scores = nearest(unit(scores), unit(self.originals.scores))
        by_pixels = nearest(thumbnails(photos), thumbnails(self.originals.pixels))
        return Quality(
            psnr=float(np.mean([psnr(a, b) for a, b in zip(photos, originals, strict=True)])),
            ssim=float(np.mean([ssim(a, b) for a, b in zip(photos, originals, strict=True)])),
            same_answer=100 * float((answers == self.originals.scores[chosen].argmax(1)).mean()),
            right_label=percent((answers == labels)[known]),
            matched_by_scores=100 * float((by_scores == chosen).mean()),
            matched_by_pixels=100 * float((by_pixels == chosen).mean()),
            photos=len(photos),
        )


def psnr(photo: Pixels, original: Pixels) -> float:
    """Compare two photos of one shape, in dB; 100 where they are the same."""
    error = float(np.mean((photo.astype(np.float32) - original) ** 2))
    return 100.0 if error == 0 else float(10 * np.log10(LEVELS**2 / error))


def ssim(photo: Pixels, original: Pixels) -> float:
    """Compare the luma of two photos (H, W, 3) in a Gaussian window (Wang et al., "Image quality assessment", 2004).

    Photos smaller than the window have a window as large as they are.
    """
    a, b = luma(photo), luma(original)
    size = min(WINDOW, *a.shape)
    window = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * SIGMA**2))
    window /= window.sum()
    mean_a, mean_b = blurred(a, window), blurred(b, window)
    var_a = blurred(a * a, window) - mean_a**2
    var_b = blurred(b * b, window) - mean_b**2
    both = blurred(a * b, window) - mean_a * mean_b
    c1, c2 = (0.01 * LEVELS) ** 2, (0.03 * LEVELS) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(likeness.mean())


def luma(pixels: Pixels) -> NDArray[np.float64]:
    return cast(NDArray[np.float64], pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))


def blurred(grey: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filter rows, then columns, where the window fits."""
    size = len(window)
    views = np.lib.stride_tricks.sliding_window_view
    return views(views(grey, size, 1) @ window, size, 0) @ window


def thumbnails(pixels: Pixels) -> Values:
    """Shrink (N, side, side, 3) to vectors (N, d) without their own mean, of length 1."""
    small = np.stack([resized(one, min(THUMBNAIL, one.shape[0])) for one in pixels]).reshape(len(pixels), -1)
    return unit(small.astype(np.float32))


def unit(values: Values) -> Values:
    """Subtract each row's mean from (N, d), and make it of length 1; 0 where all values are the same."""
    centred = values - values.mean(1, keepdims=True)
    return cast(Values, centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9))


def nearest(vectors: Values, originals: Values) -> NDArray[np.int64]:
    """Find for each of (n, d) the most similar of (N, d), (n,)."""
    return cast(NDArray[np.int64], (vectors @ originals.T).argmax(1))


def resized(pixels: Pixels, size: int, how: Image.Resampling = Image.Resampling.BICUBIC) -> Pixels:
    if pixels.shape[0] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), how))


@dataclass(frozen=True)
class Fitting:
    """A JPEG that fits a budget, and its settings."""

    pixels: Pixels  # (side, side, 3), as large as it is compared
    scan_bytes: int
    jpeg_side: int
    quality: int


def fitting_jpeg(pixels: Pixels, budget: int, side: int) -> Fitting | None:
    """Find the JPEG of (S, S, 3) within `budget` bytes with the highest PSNR at `side` pixels; None: none fits."""
    wanted = resized(pixels, side)
    found: list[tuple[float, Fitting]] = []
    for jpeg_side in [each for each in SIDES if each <= len(pixels)]:
        smaller = np.ascontiguousarray(resized(pixels, jpeg_side, Image.Resampling.LANCZOS))
        if (quality := finest(smaller, budget)) is not None:
            file = encoded(smaller, quality)
            decoded = resized(simplejpeg.decode_jpeg(file), side)
            found.append((psnr(decoded, wanted), Fitting(decoded, scan_bytes(file), jpeg_side, quality)))
    return max(found, key=lambda each: each[0])[1] if found else None


def finest(pixels: Pixels, budget: int) -> int | None:
    """Find the highest of QUALITIES that fits, by halving: bytes rise with quality, or nearly so."""
    fitting = bisect.bisect(QUALITIES, budget, key=lambda quality: scan_bytes(encoded(pixels, quality)))
    return QUALITIES[fitting - 1] if fitting else None


def encoded(pixels: Pixels, quality: int) -> bytes:
    return cast(bytes, simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420"))


def scan_bytes(file: bytes) -> int:
    """Count the bytes behind the last header, up to the end mark."""
    start = file.rindex(START_OF_SCAN)
    length = int.from_bytes(file[start + 2 : start + 4], "big")
    return len(file) - (start + 2 + length) - 2
