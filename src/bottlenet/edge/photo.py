"""A photo, however it comes, to the pixels that the head takes.

    source --read_photo--> photo (H, W, 3) uint8 --prepare--> pixels (size, size, 3) uint8
    source ------------------photo_to_pixels----------------> the same pixels, in less memory

Training and evaluation come through here too: what the network learned from is what it gets on a device. So nothing
here may be nearly the same: no draft decoding of large JPEGs, no other library for some of the files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bottlenet.bundle import Preprocess
from bottlenet.edge.decode import check_size, name_of, opened, to_rgb, turn_of
from bottlenet.errors import PhotoError

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = str | Path | bytes | Image.Image | Pixels

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
REACH = 2  # how far the wider of them looks, in pixels of the result
Turn = Image.Transpose
SWAPS = {Turn.ROTATE_90, Turn.ROTATE_270, Turn.TRANSPOSE, Turn.TRANSVERSE}  # width becomes height


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
    return resize_centre(trim(image, preprocess), image.size, preprocess)


def photo_to_pixels(source: Source, preprocess: Preprocess) -> Pixels:
    """`prepare(read_photo(source), preprocess)`, bit for bit, in less memory: a large photo is never held twice."""
    if isinstance(source, np.ndarray):
        return prepare(source, preprocess)
    with opened(source) as image:
        rgb = to_rgb(image, name_of(source))
        turn = turn_of(image)
        photo_size = rgb.size
        middle = trim(rgb, preprocess)
        del image, rgb  # before the middle is copied once more
    if turn is not None:
        middle = middle.transpose(turn)
        photo_size = photo_size[::-1] if turn in SWAPS else photo_size
    return resize_centre(middle, photo_size, preprocess)


def trim(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The middle of a photo, as far as the filter will look.

    Opposite sides lose the same, so that the middle is the same whichever way the photo is turned later. Upright
    photos are trimmed as well: which way Pillow resizes first, and so how it rounds, depends on the whole image.
    """
    side = crop_side(image.size, preprocess)
    margin = math.ceil(REACH * max(1, side / preprocess.size)) + 1
    cut_x, cut_y = (max(0, (length - side) // 2 - margin) for length in image.size)
    if cut_x == cut_y == 0:
        return image
    box = (cut_x, cut_y, image.width - cut_x, image.height - cut_y)
    # crop() would warn about large pictures, which are allowed here.
    return image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.NEAREST, box)


def resize_centre(middle: Image.Image, photo_size: tuple[int, int], preprocess: Preprocess) -> Pixels:
    """Crop and resize, given the middle of an upright photo of `photo_size` (width, height)."""
    side = crop_side(photo_size, preprocess)
    left, top = ((whole - side) // 2 - (whole - part) // 2 for whole, part in zip(photo_size, middle.size, strict=True))
    size = preprocess.size
    box = (left, top, left + side, top + side)
    return np.array(middle.resize((size, size), RESAMPLING[preprocess.interpolation], box))


def crop_side(photo_size: tuple[int, int], preprocess: Preprocess) -> int:
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
