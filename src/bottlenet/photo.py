"""A photo, however it comes, to the pixels that the head takes.

    source --read_photo--> photo (H, W, 3) uint8 --prepare--> pixels (size, size, 3) uint8
    source ------------------photo_to_pixels----------------> pixels, in less time and memory

Whatever goes to a whole network or its head as a centre crop comes through `photo_to_pixels`: on the device, in
evaluation and in benchmarks, so that all of them see the same pixels. Random crops, which training takes, are cut out
of what `read_photo` gives.

Pillow decodes. Its own limit on pixels (a warning above 89 megapixels) is a global that belongs to the program around
this library, so files are opened by signature here instead of by `Image.open`, and sizes are checked here. So is what
makes a small file take minutes: a JPEG's scans, and headers that are read byte by byte.
"""

import contextlib
import importlib
import io
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from bottlenet.bundle import Preprocess
from bottlenet.errors import InputError, PhotoError

MIN_SIDE = 8
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 200_000_000
MAX_SAMPLE = 65535  # of 16-bit grey
SIGNATURE_BYTES = 64

MAX_READS = 2_000_000  # by Pillow's parsers in Python, which take headers byte by byte: about a second
MAX_TEXT_BYTES = 8_000_000  # of a PNM written as text
MAX_COMMENTS = 1000  # in there; Pillow copies all that follows for each
MAX_MARKERS = 5000  # of a JPEG
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 1_000_000_000  # in all scans together: 10 of 100 megapixels, 80 of 12
CHUNK_BYTES = 65536

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
    """Read a photo as people should see it: (H, W, 3) uint8, RGB, writable.

    `source` is a path, the bytes of a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
    of uint8. EXIF rotation is carried out; grey of 8 and 16 bits, palette, CMYK and so on become RGB; what is
    transparent is laid over white.

    PhotoError: no such file, above 200 MB, not a picture of the formats in `READERS`, of a kind that is not read,
    damaged or truncated, a side below 8 pixels, above 100 megapixels, or made to take minutes. Sizes and scans are
    refused before anything is decoded.
    """
    if isinstance(source, np.ndarray):
        return np.array(array_to_image(source))
    with opened(source) as image:
        rgb = to_rgb(image, name_of(source))
        turn = turn_of(image)
    return np.array(rgb if turn is None else rgb.transpose(turn))


def prepare(photo: Pixels, preprocess: Preprocess) -> Pixels:
    """Crop the centre and resize: (H, W, 3) uint8 -> (size, size, 3) uint8.

    The crop is a square of `crop_fraction` of the short side, in whole pixels; at its edges the filter sees what is
    beyond them. PhotoError: no array that `read_photo` takes.
    """
    image = array_to_image(photo)
    return resize_centre(image, preprocess, image.size)


def photo_to_pixels(source: Source, preprocess: Preprocess, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Make (size, size, 3) uint8, the head's input, without an array of the whole photo. PhotoError: as `read_photo`.

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
    """Make the head's input as `photo_to_pixels`, and tell where in the photo it is."""
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
    if image.height < 1.25 * (last - first):  # a few rows more: of a part of them Pillow filters each to itself
        first, last = 0, image.height
    # The rows that the filter will look at, as they are.
    narrow = image.resize((size, last - first), resampling, (left, first, left + side, last))
    return np.array(narrow.resize((size, size), resampling, (0, top - first, size, top - first + side)))


def square_in(photo_size: tuple[int, ...], preprocess: Preprocess) -> Square:
    """Place the centre crop in an upright photo (width, height)."""
    side = crop_side(photo_size, preprocess)
    return Square((photo_size[0] - side) // 2, (photo_size[1] - side) // 2, side)


def crop_side(photo_size: tuple[int, ...], preprocess: Preprocess) -> int:
    """Return whole pixels: Pillow counts in single precision, in which a fraction depends on where it is."""
    return max(1, round(min(photo_size) * preprocess.crop_fraction))


def array_to_image(photo: Pixels) -> Image.Image:
    """Check an array. PhotoError: not uint8, another shape, or a size that isn't allowed."""
    what = f"array of shape {photo.shape}, {photo.dtype}"
    if photo.ndim == 3 and photo.shape[2] == 1:
        photo = photo[..., 0]
    if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[2] not in (3, 4)):
        raise PhotoError(f"{what}: it is no photo; give uint8 of shape (H, W), (H, W, 3) or (H, W, 4)")
    check_size(what, photo.shape[1], photo.shape[0])
    return to_rgb(Image.fromarray(np.ascontiguousarray(photo)), what)


@contextlib.contextmanager
def opened(source: str | Path | bytes | Image.Image, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a picture, size checked, not decoded yet. Whatever Pillow raises in the block becomes a PhotoError."""
    name = name_of(source)
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(source, Image.Image):
                image = source
            else:
                file = stack.enter_context(Bounded(open_source(source, name), name))
                image = identify(file, name)
            check_size(name, *image.size, max_pixels)
            if image.format == "JPEG" and not isinstance(source, Image.Image):
                check_scans(file, image, name)
            yield image
        except (PhotoError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            what = f"it has too many pixels ({error})"
            raise PhotoError(f"{name}: {what}; {allowed(max_pixels)}: scale it down") from error
        except Exception as error:  # decoders raise anything on a file that was damaged, or made to break them
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if isinstance(error, OSError) and error.errno is not None:  # the disk's, and no verdict on the photo
                raise PhotoError(f"{name}: can't read it ({error.strerror or reason}); try again") from error
            if UNSUPPORTED.search(reason):
                raise PhotoError(f"{name}: its pixels are of a kind that is not read ({reason}); {SAVE_AS}") from error
            # Other kinds have not Pillow's words, but Python's; Pillow wraps some of them.
            if not isinstance(error.__cause__ or error, OSError | SyntaxError | ValueError):
                reason = "its decoder fails"
            raise PhotoError(f"{name}: it is damaged or truncated ({reason}); give the whole file") from error


def name_of(source: str | Path | bytes | Image.Image) -> str:
    """Name a source for a message."""
    if isinstance(source, Image.Image):
        return f"Pillow image of mode {source.mode}"
    if isinstance(source, bytes):
        return f"photo of {len(source)} bytes"
    if isinstance(source, (str, Path)):
        return str(source)
    kind = type(source).__name__
    raise PhotoError(f"a photo was given as {kind}; give a path, bytes, a Pillow image or a NumPy array of uint8")


def open_source(source: str | Path | bytes, name: str) -> BinaryIO:
    """Open a file, or bytes as one. PhotoError: no such file, not a file, too large, or not readable."""
    try:
        if isinstance(source, bytes):
            file_bytes = len(source)
        else:
            status = os.stat(source)
            # A pipe or a device could block or never end, so it is not even opened.
            if not stat.S_ISREG(status.st_mode):
                raise PhotoError(f"{name}: it is not a file; give the path of one photo")
            file_bytes = status.st_size
        if file_bytes > MAX_FILE_BYTES:
            size = f"{file_bytes / 1e6:.0f} MB"
            raise PhotoError(f"{name}: it has {size}; up to {MAX_FILE_BYTES // 10**6} MB are allowed: scale it down")
        return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
    except OSError as error:
        raise PhotoError(f"{name}: can't open it ({error.strerror or error}); give the path of a photo") from error
    except ValueError as error:  # a null byte in the path
        raise PhotoError(f"{name!a}: it is no path; give the path of a photo") from error


class Bounded(io.BufferedReader):
    """A file of which only so much is read: a comment of 30 MB, byte by byte, would take half a minute."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file)  # type: ignore[arg-type]  # a file in memory is as good
        self._photo = name
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read and count. PhotoError: once too often."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise PhotoError(f"{self._photo}: it takes too many steps to read; {SAVE_AS}")
        return super().read(size)


def identify(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Open the picture in a file, by its first bytes. PhotoError: empty, or none of READERS."""
    first = file.read(SIGNATURE_BYTES)
    file.seek(0)
    for format, (signature, module, reader) in READERS.items():
        if signature.match(first):
            if format == "PNM" and first[1:2] in b"123":
                check_text(file, name)
            # Imported when needed: the rarer ones bring libraries of their own.
            opener: type[ImageFile.ImageFile] = getattr(importlib.import_module(f"PIL.{module}"), reader)
            return opener(file)
    foreign = next((what for what, signature in FOREIGN.items() if signature.match(first)), None)
    what = f"it starts with {ascii(first[:8])[2:-1]}" if first else "it is empty"
    what = f"it is {foreign}, which is not read" if foreign else what
    raise PhotoError(f"{name}: it is no photo ({what}); give one of {', '.join(READERS)}")


def check_text(file: BinaryIO, name: str) -> None:
    """Check a PNM written as text, which is parsed in Python. PhotoError: too large, or too many comments."""
    text = file.read(MAX_TEXT_BYTES + 1)
    file.seek(0)
    if len(text) > MAX_TEXT_BYTES or text.count(b"#") > MAX_COMMENTS:
        limits = f"{MAX_TEXT_BYTES // 10**6} MB and {MAX_COMMENTS} comments"
        raise PhotoError(f"{name}: it is a PNM written as text of more than {limits}; {SAVE_AS}")


def check_scans(file: BinaryIO, image: Image.Image, name: str) -> None:
    """Count a JPEG's scans, each over all pixels: 65 KB of empty ones take seconds. PhotoError: too many."""
    before, scans = file.tell(), 0
    # Of most photos one scan has all components, and libjpeg decodes no other.
    components = None if image.info.get("progressive") else image.layers  # type: ignore[attr-defined]
    for number, (marker, count) in enumerate(markers(file)):
        scans += marker == START_OF_SCAN
        if scans == 1 and count == components:
            break
        if number > MAX_MARKERS or scans > MAX_SCANS or scans * image.width * image.height > MAX_SCANNED_PIXELS:
            text = f"it is a JPEG of too many parts, at least {scans} of them scans; {SAVE_AS}"
            raise PhotoError(f"{name}: {text}")
    file.seek(before)


def markers(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Walk a JPEG to its end: each marker, and the byte behind its length, for a scan the count of components."""
    place = 2
    while True:
        file.seek(place)
        while (marker := MARKER.search(data := file.read(CHUNK_BYTES))) is None:
            if len(data) < 2:
                return  # truncated, as decoding will show
            place += len(data) - 1  # a marker may lie across
            file.seek(place)
        place += marker.end()
        file.seek(place)
        size, count = file.read(2), file.read(1)
        if marker[1][0] == END_OF_IMAGE or not count:
            return
        yield marker[1][0], count[0]
        place += int.from_bytes(size, "big")


def check_size(name: str, width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Check a picture's sides. PhotoError: too small or too large."""
    if width * height > max_pixels:
        megapixels = f"{width * height / 1e6:.0f} megapixels"
        raise PhotoError(f"{name}: it is {width}x{height} pixels, {megapixels}; {allowed(max_pixels)}: scale it down")
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"{name}: it is {width}x{height} pixels; {allowed(max_pixels)}: give a larger one")


def allowed(max_pixels: int) -> str:
    """Word the limits."""
    return f"allowed are {MIN_SIDE}x{MIN_SIDE} pixels to {max_pixels // 10**6} megapixels"


def scale_down(image: Image.Image, most: int) -> int:
    """Have libjpeg decode a JPEG at 1/8, 1/4 or 1/2, not below 1/`most`; return 8, 4, 2, or 1 for other formats."""
    if most < 2:
        return 1
    width, height = image.size
    drafted = image.draft(None, (width // most, height // most))
    return 1 if drafted is None else round(width / drafted[1][2])


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Find what turns a decoded picture upright, from its EXIF orientation; None where it is upright already."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata; the pixels are fine, and most photos are upright
        return None


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decode, and convert to mode RGB. PhotoError: pixels whose white is not known."""
    image.load()
    if image.mode == "I" or image.mode.startswith("I;16"):
        return deep_grey_to_rgb(image, name)
    if image.mode == "F":
        raise PhotoError(f"{name}: it has floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow converts it to
    if image.has_transparency_data:
        image = image.convert("RGBA")
        over = Image.new("RGB", image.size, "white")
        over.paste(image, mask=image)
        return over
    return image if image.mode == "RGB" else image.convert("RGB")


def deep_grey_to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Scale grey of more than 8 bits to RGB, from white of 65,535 or what a TIFF says; Pillow's own clips at 255."""
    samples: NDArray[np.integer] = np.asarray(image)
    low, high, white = int(samples.min()), int(samples.max()), MAX_SAMPLE
    tags = getattr(image, "tag_v2", {})
    bits, kind = (tags.get(tag, (default,)) for tag, default in ((BITS_PER_SAMPLE, 16), (SAMPLE_FORMAT, UNSIGNED)))
    if tags:
        if bits[0] > 16 or kind[0] != UNSIGNED:
            what = f"{bits[0]} bits a sample" + ("" if kind[0] == UNSIGNED else ", which may be negative")
            raise PhotoError(f"{name}: it has {what}; save it with 8 or 16 bits")
        white = 2 ** bits[0] - 1
    if low < 0 or high > white:
        raise PhotoError(f"{name}: it has grey values from {low} to {high}; save it with 8 or 16 bits")
    grey = (samples.astype(np.uint32) * 255 + white // 2) // white
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


# EXIF orientation -> what turns the picture upright. 1 is upright; so is what isn't in the standard.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [TURNS[orientation] for orientation in (5, 6, 7, 8)]  # those that swap width and height

# Format -> how a file starts, and Pillow's module and class for it. Of an animation, the first picture is taken.
READERS = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), "JpegImagePlugin", "JpegImageFile"),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), "PngImagePlugin", "PngImageFile"),
    "WebP": (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebPImagePlugin", "WebPImageFile"),
    "AVIF": (re.compile(rb"....ftyp(....)*?avi[fs]", re.DOTALL), "AvifImagePlugin", "AvifImageFile"),
    "TIFF": (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), "TiffImagePlugin", "TiffImageFile"),
    "BMP": (re.compile(rb"BM"), "BmpImagePlugin", "BmpImageFile"),
    "GIF": (re.compile(rb"GIF8[79]a"), "GifImagePlugin", "GifImageFile"),
    "PNM": (re.compile(rb"P[1-6]\s"), "PpmImagePlugin", "PpmImageFile"),
}

# What people take for a photo -> how it starts.
FOREIGN = {
    "HEIC": re.compile(rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "JPEG 2000": re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  "),
    "a video": re.compile(rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", re.DOTALL),
}
SAVE_AS = "save it as JPEG or PNG"
UNSUPPORTED = re.compile(r"not supported|unsupported|unknown pixel mode|data precision", re.IGNORECASE)

MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)  # of a JPEG; a scan's data has but 0 and D0 to D7
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, UNSIGNED = 0, 1

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif")
SYSTEM_NAMES = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def is_photo_name(name: str) -> bool:
    """Tell by its suffix if a file is taken for a photo."""
    return name.lower().endswith(SUFFIXES)


def is_system_name(name: str) -> bool:
    """Tell if a file or folder is a system's and not its user's: hidden ones, and those that unpacking leaves."""
    return name.startswith(".") or name in SYSTEM_NAMES


def photo_files(folder: Path, inside: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield a folder's photo files by name, through links, but no system folders. InputError: one can't be listed."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: can't list it ({error.strerror}); make it readable, or move it away") from error
    here = (status.st_dev, status.st_ino)
    if here in inside:
        return  # a link to a folder that it is in
    for entry in entries:
        if is_system_name(entry.name):
            continue
        path = folder / entry.name
        if entry.is_dir():
            yield from photo_files(path, (*inside, here))
        elif is_photo_name(entry.name):
            yield path
