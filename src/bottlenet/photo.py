"""A photo, however it comes, to the pixels that the head takes.

    source --read_photo--> photo (H, W, 3) uint8 --prepare--> pixels (size, size, 3) uint8
    source ------------------photo_to_pixels----------------> pixels, in less time and memory

Whatever goes to a whole network or its head as a centre crop comes through `photo_to_pixels`: on the device, in
evaluation and in benchmarks, so that all of them see the same pixels. Random crops, which training takes, are cut out
of what `read_photo` gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Preprocess
from bottlenet.decode import MAX_PIXELS, SIDEWAYS, check_size, name_of, opened, scale_down, to_rgb, turn_of
from bottlenet.errors import PhotoError

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = str | Path | bytes | Image.Image | Pixels

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
REACH = 2  # how far the wider of them looks, in pixels of the result
KEPT = 4  # decoding leaves this many pixels, or more, for each one of the result: the filter still averages over plenty


@dataclass(frozen=True)
class Square:
    """What of a photo the network sees, in pixels of the upright photo."""

    left: float
    top: float
    side: float


def read_photo(source: Source) -> Pixels:
    """A photo as people should see it: (H, W, 3) uint8, RGB, writable.

    `source` is a path, the bytes of a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
    of uint8. EXIF rotation is carried out; grey of 8 and 16 bits, palette, CMYK and so on become RGB; what is
    transparent is laid over white.

    PhotoError: no such file, above 200 MB, not a picture of the formats in `decode.READERS`, damaged or truncated, a
    side below 8 pixels, or above 100 megapixels. Sizes are refused before anything is decoded.
    """
    if isinstance(source, np.ndarray):
        return np.array(array_to_image(source))
    with opened(source) as image:
        rgb = to_rgb(image, name_of(source))
        turn = turn_of(image)
    return np.array(rgb if turn is None else rgb.transpose(turn))


def prepare(photo: Pixels, preprocess: Preprocess) -> Pixels:
    """Centre crop and resize: (H, W, 3) uint8 -> (size, size, 3) uint8.

    The crop is a square of `crop_fraction` of the short side, in whole pixels; at its edges the filter sees what is
    beyond them. PhotoError: no array that `read_photo` takes.
    """
    image = array_to_image(photo)
    return resize_centre(image, preprocess, image.size)


def photo_to_pixels(source: Source, preprocess: Preprocess, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Photo -> (size, size, 3) uint8, the head's input, without an array of the whole photo. PhotoError: as there.

    Equal to `prepare(read_photo(source), preprocess)`, bit for bit, except for files (paths and bytes) that are JPEGs
    whose crop has `2 * KEPT * size` pixels or more a side: for 224 pixels out of 87.5 %, 2048 on the photo's short
    side. libjpeg decodes those at 1/2, 1/4 or 1/8, the smallest that leaves `KEPT * size` pixels a side of the crop.
    Values then differ by less than 1 in the mean. Where EXIF turns such a photo, and its sides are no multiples of 2, 4
    or 8, the crop's edges also move, by less than a quarter of a pixel of the result.

    A turned photo is in memory twice for a moment, as large as it was decoded. Files and images of more than
    `max_pixels` are refused.
    """
    return photo_to_crop(source, preprocess, max_pixels=max_pixels)[0]


def photo_to_crop(source: Source, preprocess: Preprocess, *, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, Square]:
    """The same, and where in the photo it is."""
    if isinstance(source, np.ndarray):
        return prepare(source, preprocess), square_in(source.shape[1::-1], preprocess)
    scale = 1
    with opened(source, max_pixels) as image:
        photo_size = image.size
        if not isinstance(source, Image.Image):  # one that is given stays as it is
            scale = scale_down(image, crop_side(photo_size, preprocess) // (KEPT * preprocess.size))
        rgb = to_rgb(image, name_of(source))
        turn = turn_of(image)
        del image  # where `rgb` is another
    square = square_in(photo_size[::-1] if turn in SIDEWAYS else photo_size, preprocess)
    if turn is not None:
        rgb = rgb.transpose(turn)
        photo_size = (rgb.width * scale, rgb.height * scale)  # what fills up the last pixel now may come first
    return resize_centre(rgb, preprocess, photo_size, scale), square


def resize_centre(image: Image.Image, preprocess: Preprocess, photo_size: tuple[int, int], scale: int = 1) -> Pixels:
    """Crop and resize an upright photo of `photo_size` (width, height). `image` is mode RGB, 1/`scale` of its sides.

    Columns first, then rows: Pillow alone would choose the order, and so how it rounds, by the shape of the whole
    photo, and differently from version to version.
    """
    size, resampling = preprocess.size, RESAMPLING[preprocess.interpolation]
    square = square_in(photo_size, preprocess)
    left, top, side = square.left / scale, square.top / scale, square.side / scale  # now in pixels of `image`
    reach = REACH * max(1, side / size) + 1
    first, last = max(0, math.floor(top - reach)), min(image.height, math.ceil(top + side + reach))
    # The rows that the filter will look at, as they are.
    narrow = image.resize((size, last - first), resampling, (left, first, left + side, last))
    return np.array(narrow.resize((size, size), resampling, (0, top - first, size, top - first + side)))


def square_in(photo_size: tuple[int, ...], preprocess: Preprocess) -> Square:
    """The centre crop of an upright photo (width, height)."""
    side = crop_side(photo_size, preprocess)
    left, top = ((length - side) // 2 for length in photo_size)
    return Square(left, top, side)


def crop_side(photo_size: tuple[int, ...], preprocess: Preprocess) -> int:
    """Pixels; whole ones, as Pillow counts in single precision, in which a fraction depends on where it is."""
    return max(1, round(min(photo_size) * preprocess.crop_fraction))


def array_to_image(photo: Pixels) -> Image.Image:
    """PhotoError: not uint8, another shape, or a size that isn't allowed."""
    what = f"array of shape {photo.shape}, {photo.dtype}"
    if photo.ndim == 3 and photo.shape[2] == 1:
        photo = photo[..., 0]
    if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[2] not in (3, 4)):
        raise PhotoError(f"{what}: it is no photo; give uint8 of shape (H, W), (H, W, 3) or (H, W, 4)")
    check_size(what, photo.shape[1], photo.shape[0])
    return to_rgb(Image.fromarray(np.ascontiguousarray(photo)), what)
