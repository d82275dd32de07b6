"""Pictures on the wire: stripped JPEG and WebP of a mosaic, and whole files of the network's input.

    JPEG     SOI APP0 DQT SOF0 DHT DHT SOS | entropy-coded scan | EOI       of a mosaic (rows, cols) uint8
    WebP     "RIFF" size "WEBP" "VP8 " size | VP8 key frame
    payload                                 | this              |           the receiver makes the rest itself

    pixels (S, S, 3) --InputCodec.encode--> file --decode--> pixels         of the network's input

Unpacking takes bytes from anyone: what does not decode is a PayloadError, and a picture of another size is never
allocated.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, features

from bottlenet.errors import InputError, PayloadError
from bottlenet.records import check_integer

Picture = NDArray[np.uint8]
Shape = tuple[int, int]

JPEG_SOS = b"\xff\xda"  # start of scan
JPEG_EOI = b"\xff\xd9"  # end of image
JPEG_DRI = b"\xff\xdd\x00\x04"  # define restart interval: its blocks follow, in 2 bytes
JPEG_RESTARTS = tuple(bytes((0xFF, 0xD0 + number)) for number in range(8))  # in turn
JPEG_BLOCK, JPEG_MAX_SIDE = 8, 65500  # pixels
TALL_MAX_PIXELS = 2**24  # of pictures that are decoded together
WEBP_HEADER_BYTES = 20
VP8_START = b"\x9d\x01\x2a"


def jpeg_file(picture: Picture, quality: int) -> bytes:
    """Write the complete grey baseline file, with libjpeg's tables for `quality`, 1..100."""
    return cast(bytes, simplejpeg.encode_jpeg(picture[..., None], quality=quality, colorspace="GRAY"))


@lru_cache(maxsize=64)
def jpeg_header(shape: Shape, quality: int) -> bytes:
    """Return SOI to SOS, 328 bytes: all before the scan in any picture's file, so in a blank one's, too."""
    blank = jpeg_file(np.zeros(shape, np.uint8), quality)
    sos = blank.index(JPEG_SOS) + len(JPEG_SOS)
    return blank[: sos + int.from_bytes(blank[sos : sos + 2], "big")]


def pack_jpeg(picture: Picture, quality: int) -> bytes:
    """Return the entropy-coded scan of the file."""
    file = jpeg_file(picture, quality)
    rows, cols = picture.shape
    header = jpeg_header((rows, cols), quality)
    assert file.startswith(header), "libjpeg's header depends on the picture"
    return file[len(header) : -len(JPEG_EOI)]


def unpack_jpeg(scan: bytes, shape: Shape, quality: int) -> Picture:
    """Decode to the picture of `shape`, pixel by pixel what any libjpeg makes of the complete file.

    By default libjpeg patches a damaged scan up and warns. Its strict mode is used here, which makes each warning a
    PayloadError: a scan that ends too early, a bad Huffman code, bytes left over. Other damage, and a few bytes
    after the last block, decode to some picture: that is for the frame's checksum.
    """
    # There are no restart intervals, so each 0xFF in a scan is a stuffed one. Anything else would be a marker, and
    # could bring tables and sizes of its own.
    if scan.count(b"\xff") != scan.count(b"\xff\x00"):
        raise PayloadError(f"jpeg payload of {len(scan)} bytes has a marker in it; send the scan and no more")
    file = b"".join((jpeg_header(shape, quality), scan, JPEG_EOI))
    try:
        picture: Picture = simplejpeg.decode_jpeg(file, colorspace="GRAY", strict=True)
    except ValueError as error:
        raise PayloadError(f"jpeg payload of {len(scan)} bytes does not decode: {error}; send it again") from error
    return picture[..., 0]


def unpack_jpegs(scans: Sequence[bytes], shape: Shape, quality: int) -> Picture:
    """Decode (n, rows, cols) from far fewer calls, bit for bit what `unpack_jpeg` makes of each scan.

    Only for scans that `pack_jpeg` made. They become one tall picture with a restart marker between every two: there
    the decoder starts afresh, as at the start of a file.
    """
    rows, cols = shape
    tall_rows = -(-rows // JPEG_BLOCK) * JPEG_BLOCK
    blocks = tall_rows // JPEG_BLOCK * -(-cols // JPEG_BLOCK)
    pictures: Picture = np.empty((len(scans), rows, cols), np.uint8)
    together = min(JPEG_MAX_SIDE // tall_rows, TALL_MAX_PIXELS // (tall_rows * cols)) if blocks < 2**16 else 1
    if together < 2:
        for number, scan in enumerate(scans):
            pictures[number] = unpack_jpeg(scan, shape, quality)
        return pictures
    for first in range(0, len(scans), together):
        some = scans[first : first + together]
        header = jpeg_header((len(some) * tall_rows, cols), quality)
        sos = header.rindex(JPEG_SOS)
        parts = [header[:sos], JPEG_DRI, blocks.to_bytes(2, "big"), header[sos:]]
        for number, scan in enumerate(some):
            parts += [scan, JPEG_RESTARTS[number % len(JPEG_RESTARTS)]]
        parts[-1] = JPEG_EOI
        tall = simplejpeg.decode_jpeg(b"".join(parts), colorspace="GRAY", strict=True)
        pictures[first : first + len(some)] = tall.reshape(len(some), tall_rows, cols)[:, :rows]
    return pictures


def webp_header(payload_bytes: int) -> bytes:
    """Return the 20 bytes before the key frame. `payload_bytes` is even, as libwebp pads inside the chunk."""
    riff = b"RIFF" + (payload_bytes + 12).to_bytes(4, "little") + b"WEBP"
    return riff + b"VP8 " + payload_bytes.to_bytes(4, "little")


def pack_webp(picture: Picture, quality: int) -> bytes:
    """Return the VP8 key frame (RFC 6386) of the lossy file, method 4, `quality` 0..100."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=4, lossless=False)
    file = buffer.getvalue()
    assert file.startswith(webp_header(len(file) - WEBP_HEADER_BYTES)), "libwebp wrote more than one chunk"
    return file[WEBP_HEADER_BYTES:]


def unpack_webp(payload: bytes, shape: Shape) -> Picture:
    """Decode to the picture of `shape`; another size in the key frame is refused before anything is decoded."""
    # Frame tag (3 bytes, lowest bit 0: a key frame), start code (3), then twice 14 bits of size and 2 of scale.
    if len(payload) < 10 or payload[0] & 1 or payload[3:6] != VP8_START or len(payload) % 2:
        raise PayloadError(f"webp payload of {len(payload)} bytes is no VP8 key frame; send the whole frame")
    told = int.from_bytes(payload[8:10], "little"), int.from_bytes(payload[6:8], "little")
    if told != shape:
        what = f"webp payload is a picture of {told[0]} x {told[1]}, but this bundle's is {shape[0]} x {shape[1]}"
        raise PayloadError(f"{what}; use the same bundle on both sides")
    try:
        with Image.open(io.BytesIO(webp_header(len(payload)) + payload), formats=["WEBP"]) as image:
            picture: Picture = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PayloadError(f"webp payload of {len(payload)} bytes is damaged; send the whole frame") from error
    return picture


QUALITIES = (5, 10, 20, 30, 40, 50, 60, 75, 90, 95)  # that are tried for the smallest file that is good enough


@dataclass(frozen=True)
class InputCodec:
    """One format at one quality. InputError: no such format, or this Pillow can't write it."""

    format: str  # a key of FORMATS
    quality: int  # 0..100

    def __post_init__(self) -> None:
        if self.format not in available():
            raise InputError(f"input codec {self.format!a:.20} is not there; choose one of {', '.join(available())}")
        check_integer("quality", self.quality, 0, 100)

    @classmethod
    def parse(cls, name: str) -> InputCodec:
        """Parse a name such as "JPEG 75". InputError: another text, or as above."""
        parts = name.split(" ")
        if len(parts) != 2 or not (parts[1].isdecimal() and parts[1].isascii() and len(parts[1]) < 4):
            raise InputError(f"input codec {name!a:.40} is none; give a format and a quality, such as JPEG 75")
        return cls(parts[0], int(parts[1]))

    @property
    def name(self) -> str:
        """JPEG 75."""
        return f"{self.format} {self.quality}"

    def encode(self, pixels: Picture) -> bytes:
        file = io.BytesIO()
        more = {"max_threads": 1} if self.format == "AVIF" else {}
        Image.fromarray(pixels).save(file, FORMATS[self.format], quality=self.quality, **more)
        return file.getvalue()


def decode(file: bytes, size: int) -> Picture:
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
