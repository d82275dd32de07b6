"""The network's input as a picture file, which is what a device sends that leaves the whole network to the server.

    pixels (S, S, 3) --encode--> file --decode--> pixels (S, S, 3)

With Pillow's own settings but for the quality, and in one thread.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from bottlenet.errors import InputError, PayloadError

Pixels = NDArray[np.uint8]

QUALITIES = (5, 10, 20, 30, 40, 50, 60, 75, 90, 95)  # that are tried for the smallest file that is good enough


@dataclass(frozen=True)
class InputCodec:
    """One format at one quality. InputError: no such format, or this Pillow can't write it."""

    format: str  # a key of FORMATS
    quality: int  # 0..100

    def __post_init__(self) -> None:
        if self.format not in available():
            raise InputError(f"input codec {self.format!a:.20} is not there; choose one of {', '.join(available())}")
        if not 0 <= self.quality <= 100:
            raise InputError(f"quality is {self.quality}; give 0 to 100")

    @classmethod
    def parse(cls, name: str) -> InputCodec:
        """What `name` gives. InputError: another text, or as above."""
        parts = name.split(" ")
        if len(parts) != 2 or not (parts[1].isdecimal() and parts[1].isascii() and len(parts[1]) < 4):
            raise InputError(f"input codec {name!a:.40} is none; give a format and a quality, such as JPEG 75")
        return cls(parts[0], int(parts[1]))

    @property
    def name(self) -> str:
        """JPEG 75."""
        return f"{self.format} {self.quality}"

    def encode(self, pixels: Pixels) -> bytes:
        """A file."""
        file = io.BytesIO()
        more = {"max_threads": 1} if self.format == "AVIF" else {}
        Image.fromarray(pixels).save(file, FORMATS[self.format], quality=self.quality, **more)
        return file.getvalue()


def decode(file: bytes, size: int) -> Pixels:
    """(size, size, 3). PayloadError: no picture of one of the formats, damaged, or of another size."""
    try:
        with Image.open(io.BytesIO(file), formats=list(FORMATS.values())) as picture:
            if picture.size != (size, size):
                raise PayloadError(f"the picture has {picture.width}x{picture.height} pixels, not {size}x{size}")
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PayloadError(f"{len(file)} bytes are no picture: {' '.join(str(error).split()):.100}") from error


def available() -> tuple[str, ...]:
    """Formats that this Pillow writes: one that was built without its library may lack some."""
    return tuple(name for name in FORMATS if name == "JPEG" or features.check(name.lower()))


FORMATS = {"JPEG": "JPEG", "WebP": "WEBP", "AVIF": "AVIF"}  # ours -> Pillow's
# The paper compares with about JPEG 95; JPEG 75 is what most would send.
FIXED = (InputCodec("JPEG", 75), InputCodec("JPEG", 95), InputCodec("WebP", 75))
