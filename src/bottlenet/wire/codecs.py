"""Codecs: symbols to payload and back, and payloads that fit a budget. `CODECS` at the bottom names them.

    symbols (C, H, W) uint8 --encode--> payload --decode--> symbols_hat (C, H, W) uint8

A payload holds only what the receiver can't know: the bundle already tells it the size, the mosaic, the codec and
its setting, so the headers that a complete file would carry stay at home. docs/wire.md specifies every payload.

A codec has a `name`, a key of CODECS, a `code` on the wire, 0..15, and one `setting`, 0..255, as it travels. `encode`
raises InputError for symbols of another shape or dtype. `decode` raises PayloadError for anything that does not
decode, and never allocates more than the picture of `mosaic` needs. `round_trip` is the batch form for training: it
takes (B, C, H, W), and returns what the receiver would get, and the payload bytes (B,) int64.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np

from bottlenet.errors import InputError, PayloadError
from bottlenet.records import check_integer
from bottlenet.wire.entropy import Entropy, Sizes
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.pictures import pack_jpeg, pack_webp, unpack_jpeg, unpack_jpegs, unpack_webp
from bottlenet.wire.tables import Symbols, Tables

WEBP_MAX_SIDE = 16383


@dataclass(frozen=True)
class PackingCodec(ABC):
    """Codecs whose one `setting` decides how symbols are packed. InputError: a setting out of range."""

    name: ClassVar[str]
    code: ClassVar[int]
    settings: ClassVar[tuple[str, int, int]]  # what the setting is called, the lowest, the highest
    mosaic: Mosaic
    setting: int

    def __post_init__(self) -> None:
        called, lowest, highest = self.settings
        check_integer(f"{self.name}: {called}", self.setting, lowest, highest)

    @abstractmethod
    def pack(self, symbols: Symbols) -> bytes:
        """Encode symbols, or their picture."""

    def encode(self, symbols: Symbols) -> bytes:
        self.mosaic.check(symbols)
        return self.pack(symbols)

    def round_trip(self, symbols: Symbols) -> tuple[Symbols, Sizes]:
        self.mosaic.check(symbols, batch=True)
        return symbols.copy(), np.array([len(self.pack(one)) for one in symbols], np.int64)


@dataclass(frozen=True)
class Raw(PackingCodec):
    """The symbols as they are, one byte each, in C, H, W order."""

    name: ClassVar[str] = "raw"
    code: ClassVar[int] = 0
    settings: ClassVar = ("setting", 0, 0)
    setting: int = 0

    def pack(self, symbols: Symbols) -> bytes:
        return symbols.tobytes()

    def decode(self, payload: bytes) -> Symbols:
        return unflatten(payload, self.mosaic)


@dataclass(frozen=True)
class Deflate(PackingCodec):
    """Lossless: the symbols in C, H, W order as a raw DEFLATE stream (RFC 1951), without zlib's header and sum.

    `setting` is zlib's level, 0 (stored) to 9 (smallest); a decoder needs none, it travels for the record.
    """

    name: ClassVar[str] = "deflate"
    code: ClassVar[int] = 1
    settings: ClassVar = ("level", 0, 9)
    setting: int = 9

    def pack(self, symbols: Symbols) -> bytes:
        deflater = zlib.compressobj(self.setting, wbits=-zlib.MAX_WBITS)
        return deflater.compress(symbols.tobytes()) + deflater.flush()

    def decode(self, payload: bytes) -> Symbols:
        """Decode exactly; inflate at most one byte more than the latent has."""
        inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            # The byte too many makes a longer stream show, and a bomb stops there.
            plain = inflater.decompress(payload, self.mosaic.symbol_count + 1)
        except zlib.error as error:
            raise PayloadError(f"deflate payload of {len(payload)} bytes does not inflate: {error}") from error
        if len(plain) <= self.mosaic.symbol_count and not inflater.eof:
            raise PayloadError(f"deflate payload ends too early, after {len(payload)} bytes; send all of it")
        if inflater.unused_data:
            raise PayloadError(f"deflate payload has {len(inflater.unused_data)} bytes after its end; send none")
        return unflatten(plain, self.mosaic)


@dataclass(frozen=True)
class PictureCodec(PackingCodec):
    """What `Jpeg` and `WebP` have in common: symbols go through one grey picture, of a quality up to 100."""

    setting: int = 20

    @abstractmethod
    def unpack(self, payload: bytes) -> Symbols:
        """Decode a picture (rows, cols) uint8. PayloadError: it does not decode."""

    def unpack_all(self, payloads: Sequence[bytes]) -> Symbols:
        """Decode payloads that `pack` made to (n, rows, cols) uint8."""
        pictures = np.array([self.unpack(payload) for payload in payloads], np.uint8)
        return pictures.reshape(-1, *self.mosaic.picture_shape)

    def encode(self, symbols: Symbols) -> bytes:
        self.mosaic.check(symbols)
        return self.pack(self.mosaic.tile(symbols))

    def decode(self, payload: bytes) -> Symbols:
        return self.mosaic.untile(self.unpack(payload))

    def round_trip(self, symbols: Symbols) -> tuple[Symbols, Sizes]:
        """Take each picture through `pack` and `unpack`, so that training sees what is sent."""
        self.mosaic.check(symbols, batch=True)
        payloads = [self.pack(picture) for picture in self.mosaic.tile(symbols)]
        return self.mosaic.untile(self.unpack_all(payloads)), np.array([*map(len, payloads)], np.int64)


@dataclass(frozen=True)
class Jpeg(PictureCodec):
    """The paper's codec: the mosaic as a grey baseline JPEG (BottleNet, ISLPED 2019; quality 20 there).

    The payload is the entropy-coded scan alone. The 328 bytes before it are a pure function of picture size and
    quality, so the receiver makes them itself, once. `setting` is libjpeg's quality, 1..100.
    """

    name: ClassVar[str] = "jpeg"
    code: ClassVar[int] = 2
    settings: ClassVar = ("quality", 1, 100)

    def pack(self, symbols: Symbols) -> bytes:
        return pack_jpeg(symbols, self.setting)

    def unpack(self, payload: bytes) -> Symbols:
        """Decode to the pixels of the complete file."""
        return unpack_jpeg(payload, self.mosaic.picture_shape, self.setting)

    def unpack_all(self, payloads: Sequence[bytes]) -> Symbols:
        """Decode as one tall picture, which takes half the time where pictures are small."""
        return unpack_jpegs(payloads, self.mosaic.picture_shape, self.setting)


@dataclass(frozen=True)
class WebP(PictureCodec):
    """The mosaic as a lossy WebP picture; the payload is its VP8 key frame.

    VP8 has no grey: chroma is there, but flat, and costs next to nothing. It holds luma as 16..235, so that even
    quality 100 isn't lossless. `setting` is libwebp's quality, 0..100; a decoder needs none. InputError: a picture with
    a side above 16,383.
    """

    name: ClassVar[str] = "webp"
    code: ClassVar[int] = 3
    settings: ClassVar = ("quality", 0, 100)

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, cols = self.mosaic.picture_shape
        if max(rows, cols) > WEBP_MAX_SIDE:
            raise InputError(f"webp: the picture is {rows} x {cols}; WebP allows {WEBP_MAX_SIDE} a side: use jpeg")

    def pack(self, symbols: Symbols) -> bytes:
        return pack_webp(symbols, self.setting)

    def unpack(self, payload: bytes) -> Symbols:
        """Decode the key frame's luma."""
        return unpack_webp(payload, self.mosaic.picture_shape)


def unflatten(plain: bytes, mosaic: Mosaic) -> Symbols:
    """Reshape one byte a symbol to (C, H, W), writable. PayloadError: another number of symbols."""
    if len(plain) != mosaic.symbol_count:
        more = "more" if len(plain) > mosaic.symbol_count else "fewer"
        raise PayloadError(f"payload holds {more} than the {mosaic.symbol_count} symbols of this bundle")
    return np.frombuffer(plain, np.uint8).reshape(mosaic.symbols_shape).copy()


Codec: TypeAlias = Raw | Deflate | Jpeg | WebP | Entropy

CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Raw, Deflate, Jpeg, WebP, Entropy)}
CODES: dict[int, str] = {codec.code: name for name, codec in CODECS.items()}


def make_codec(name: str, mosaic: Mosaic, setting: int, tables: Tables | None = None) -> Codec:
    """Make the codec of that name; `tables` are for `entropy`. InputError: no such name, setting or tables."""
    if name not in CODECS:
        raise InputError(f"there is no codec {name!r:.60}; choose one of {', '.join(CODECS)}")
    kind = CODECS[name]
    if not issubclass(kind, Entropy):
        return kind(mosaic, setting)
    check_integer("entropy: setting", setting, Entropy.setting, Entropy.setting)
    if tables is None:
        raise InputError("entropy: there are no tables; take the codec of a bundle that holds tables.bin")
    return Entropy(mosaic, tables)


@dataclass(frozen=True)
class Within:
    """A payload, and the codec and setting that a frame must name for it to be decoded."""

    payload: bytes
    codec: int  # a key of wire.codecs.CODES
    setting: int


def encode_within(codec: Codec, symbols: Symbols, budget_bytes: int) -> Within:
    """Encode symbols (C, H, W) uint8 as the best payload of at most `budget_bytes`.

    A payload of `entropy` is cut. `jpeg` and `webp` take the finest quality that fits, at most that of `codec`.
    The others fit or don't.

    InputError: nothing fits, which names the smallest payload that these symbols allow; or what `encode` refuses.
    """
    if isinstance(codec, Entropy):
        if budget_bytes < 1:
            raise too_small(budget_bytes, 1)
        return Within(codec.encode(symbols, budget_bytes), codec.code, codec.setting)
    if isinstance(codec, PictureCodec):
        return finest(codec, symbols, budget_bytes)
    payload = codec.encode(symbols)
    if len(payload) > budget_bytes:
        raise too_small(budget_bytes, len(payload))
    return Within(payload, codec.code, codec.setting)


def finest(codec: PictureCodec, symbols: Symbols, budget_bytes: int) -> Within:
    """Try every quality from the codec's own down: bytes almost always rise with quality, but not always."""
    codec.mosaic.check(symbols)
    picture = codec.mosaic.tile(symbols)
    sizes = []
    for quality in range(codec.setting, codec.settings[1] - 1, -1):
        payload = replace(codec, setting=quality).pack(picture)
        if len(payload) <= budget_bytes:
            return Within(payload, codec.code, quality)
        sizes.append(len(payload))
    raise too_small(budget_bytes, min(sizes))


def too_small(budget_bytes: int, smallest: int) -> InputError:
    return InputError(f"budget is {budget_bytes} bytes; the smallest payload of this photo has {smallest}: give more")
