"""A payload that fits a number of bytes, as good as its codec can make it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bottlenet.errors import InputError
from bottlenet.wire.codecs import Codec, PictureCodec
from bottlenet.wire.entropy import Entropy, Symbols


@dataclass(frozen=True)
class Within:
    """A payload, and the codec and setting that a frame must name for it to be decoded."""

    payload: bytes
    codec: int  # a key of wire.codecs.CODES
    setting: int


def encode_within(codec: Codec, symbols: Symbols, budget_bytes: int) -> Within:
    """Symbols (C, H, W) uint8 -> the best payload of at most `budget_bytes`.

    An embedded codec's payload is cut. `jpeg` and `webp` take the finest quality that fits, at most that of `codec`.
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
    """Every quality from the codec's own down: bytes almost always rise with quality, but not always."""
    codec.mosaic.check(symbols)
    picture = codec.mosaic.tile(symbols)
    sizes = []
    for quality in range(codec.quality, codec.lowest - 1, -1):
        payload = replace(codec, quality=quality).pack(picture)
        if len(payload) <= budget_bytes:
            return Within(payload, codec.code, quality)
        sizes.append(len(payload))
    raise too_small(budget_bytes, min(sizes))


def too_small(budget_bytes: int, smallest: int) -> InputError:
    return InputError(f"budget is {budget_bytes} bytes; the smallest payload of this photo has {smallest}: give more")
