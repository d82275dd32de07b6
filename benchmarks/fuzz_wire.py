"""What takes bytes from the network, for fuzz.py: frames, answers, payloads of every codec, and tables.bin."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from bottlenet.bundle import Bundle
from bottlenet.cloud import decoder as photos
from bottlenet.cloud.decoder import Photos
from bottlenet.errors import BottleNetError, WireError
from bottlenet.wire import entropy
from bottlenet.wire.answer import Answer, Box, Boxes, Classes, ClassMap, busy_bytes, parse_answer, refusal_bytes
from bottlenet.wire.codecs import Codec, make_codec
from bottlenet.wire.frame import (
    HEADER_BYTES,
    NETWORK_INPUT,
    PHOTO,
    REPORT,
    WHOLE_PHOTO,
    Frame,
    Report,
    checksum,
    parse_frame,
    parse_report,
    parse_stream_frame,
)
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.tables import PLANES, Bins, Tables, parse_tables
from fuzz_target import Target

TAG = b"tag"
FEW_PIXELS = 2**18
CRC = slice(10, 12)  # of a frame
MOSAICS = (Mosaic(1, 1, 1), Mosaic(3, 5, 7), Mosaic(4, 8, 8, 1))
SETTINGS = {"raw": (0,), "deflate": (0, 9), "jpeg": (1, 20, 100), "webp": (0, 20, 100), "entropy": (0,)}
DEMO_BUNDLE = Bundle.load("demo")
FAST = entropy.LIBRARY  # where it is built


def frame(data: bytes) -> None:
    """Parse both forms, and reports. Half of the inputs get a correct checksum, which chance would hardly find."""
    data, mend = data[1:], data[:1] > b"\x7f"
    if mend and len(data) >= HEADER_BYTES:
        right = checksum(data[: CRC.start], data[HEADER_BYTES:])
        data = data[: CRC.start] + right.to_bytes(2, "big") + data[CRC.stop :]
    try:
        streamed = parse_stream_frame(data, bundle_tag=TAG, max_payload_bytes=2000)
        assert streamed.to_stream_bytes() == data
        report(streamed)
    except WireError:
        pass
    parsed = parse_frame(data, max_payload_bytes=2000)
    assert parsed.to_bytes() == data
    report(parsed)
    parse_frame(data, bundle_tag=TAG)


def report(parsed: Frame) -> None:
    if parsed.codec == REPORT:
        assert parse_report(parsed).to_frame(parsed.bundle_tag, parsed.sequence) == parsed


def frames() -> Iterator[bytes]:
    for payload in (b"", b"payload", bytes(200)):
        made = Frame(2, 20, TAG, 258, payload)
        for each in (made, Report(285, 0.75).to_frame(TAG, 258), Report(285, 0.75, made).to_frame(TAG, 258)):
            for first in (b"\0", b"\xff"):
                yield first + each.to_bytes()
                yield first + each.to_stream_bytes()


def answer(data: bytes) -> None:
    """Parse answers, refusals and "busy". A map may come from another zlib, so that its bytes may differ."""
    parsed = parse_answer(data)
    again = parsed.to_bytes()
    assert (parse_answer(again) == parsed) if isinstance(parsed.result, ClassMap) else (again == data)


def answers() -> Iterator[bytes]:
    yield Answer(258, 41, 1843, ((285, 0.75), (281, 0.125))).to_bytes()
    yield Answer(0, 0, 0, ()).to_bytes()
    for result in (
        Classes(((285, 0.75), (281, 0.125))),
        ClassMap(4, 6, bytes(12) + b"\x0f" * 12),
        ClassMap(1024, 1024, bytes(2**20)),
        Boxes((Box(18, 0.75, 0.25, 0.125, 0.5, 1.0), Box(2, 0.5, 0.0, 0.0, 1.0, 1.0))),
    ):
        yield Answer(258, 41, 1843, (), 700, 4.0, result).to_bytes()
    yield refusal_bytes(258, "no such bundle")
    yield busy_bytes(258, 1.5, "line is full")


def small_tables(mosaic: Mosaic) -> Tables:
    """Make tables of every pass of a latent: few contexts, outcomes of many likelihoods."""
    passes = tuple((channel, plane) for plane in range(PLANES) for channel in range(mosaic.channels))
    bins = Bins((1,), (1, 3), (2,), (1,))
    number = np.arange(len(passes) * bins.rows)
    minus, plus = 1 + number * 7919 % 20000, 1 + number * 104729 % 30000
    zero = 1 + np.arange(len(passes)) * 7919 % 60000
    rows = np.stack([minus, 65536 - minus - plus, plus], -1).reshape(len(passes), bins.rows, 3).astype(np.uint16)
    return Tables(*mosaic.symbols_shape, passes, bins, np.stack([zero, 65536 - zero], -1).astype(np.uint16), rows)


def codecs_of(name: str) -> list[Codec]:
    """Make codecs of several latents and settings."""
    return [
        make_codec(name, mosaic, setting, small_tables(mosaic) if name == "entropy" else None)
        for mosaic in MOSAICS
        for setting in SETTINGS[name]
    ]


CODECS_BY_NAME = {name: codecs_of(name) for name in SETTINGS}


def payload(name: str, data: bytes) -> None:
    """Decode a payload; the first byte chooses latent and setting."""
    codecs = CODECS_BY_NAME[name]
    codec = codecs[data[0] % len(codecs)] if data else codecs[0]
    check_symbols(codec, codec.decode(data[1:]))


def check_symbols(codec: Codec, symbols: np.ndarray) -> None:
    assert symbols.dtype == np.uint8
    assert symbols.shape == codec.mosaic.symbols_shape


def payloads(name: str) -> Iterator[bytes]:
    source = np.random.default_rng(1)
    for number, codec in enumerate(CODECS_BY_NAME[name]):
        for spread in (0, 5, 120):
            noise = source.integers(-spread, spread + 1, codec.mosaic.symbols_shape)
            yield bytes([number]) + codec.encode((128 + noise).astype(np.uint8))


def entropy_by(data: bytes, library: Any) -> None:
    """By one of the two. The first byte says for which latent; from 128 on it is that of the demo's bundle."""
    codecs = CODECS_BY_NAME["entropy"]
    codec = DEMO_BUNDLE.codec if data[:1] > b"\x7f" else codecs[data[0] % len(codecs) if data else 0]
    entropy.LIBRARY = library
    check_symbols(codec, codec.decode(data[1:]))


def entropy_fast(data: bytes) -> None:
    """By compiled code, which must do what the definition does."""
    results: list[object] = []
    codecs = CODECS_BY_NAME["entropy"]
    codec = DEMO_BUNDLE.codec if data[:1] > b"\x7f" else codecs[data[0] % len(codecs) if data else 0]
    for library in (FAST, None):
        entropy.LIBRARY = library
        try:
            results.append(codec.decode(data[1:]).tobytes())
        except BottleNetError as error:
            results.append(f"{type(error).__name__}: {error}")
    assert results[0] == results[1], "compiled code and Python differ"
    if isinstance(results[0], str):
        raise WireError(results[0])


def entropy_payloads() -> Iterator[bytes]:
    yield from payloads("entropy")
    source = random.Random(1)
    noise = np.array([128 + round(source.gauss(0, 60 / (1 + number // 49))) for number in range(192 * 49)])
    whole = DEMO_BUNDLE.codec.encode(np.clip(noise, 7, 249).reshape(192, 7, 7).astype(np.uint8))
    for count in (1, 9, 51, 340, 600, len(whole)):
        yield b"\x80" + whole[:count]


def tables(data: bytes) -> None:
    """Use the tables that are accepted, where the latent is small."""
    parsed = parse_tables(data)
    assert parsed.to_bytes() == data
    if parsed.channels * parsed.height * parsed.width <= 4096 and parsed.channels <= 64:
        codec = make_codec("entropy", Mosaic(parsed.channels, parsed.height, parsed.width), 0, parsed)
        check_symbols(codec, codec.decode(b"\x55\xaa"))


def table_files() -> Iterator[bytes]:
    for mosaic in MOSAICS:
        yield small_tables(mosaic).to_bytes()


def photo(data: bytes) -> None:
    """Decode a picture file as a server gets it; the first byte says if it is a photo or the network's input.

    With a limit of pixels at which one picture takes no longer than one input may.
    """
    size = DEMO_BUNDLE.manifest.uncut_preprocess.size
    kind = WHOLE_PHOTO if data[:1] <= b"\x7f" else NETWORK_INPUT
    with mock.patch.object(photos, "MAX_PIXELS", FEW_PIXELS):
        pixels = Photos(DEMO_BUNDLE).pixels(Frame(PHOTO, kind, DEMO_BUNDLE.tag, 0, data[1:]))
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)


def pictures() -> Iterator[bytes]:
    size = DEMO_BUNDLE.manifest.uncut_preprocess.size
    for side, first in ((16, b"\0"), (size, b"\xff")):
        for kind in ("JPEG", "PNG", "WEBP"):
            file = io.BytesIO()
            Image.new("RGB", (side, side), (200, 100, 50)).save(file, kind)
            yield first + file.getvalue()


def targets() -> dict[str, Target]:
    """By name."""
    made = {"frame": Target(frame, frames), "answer": Target(answer, answers)}
    for name in ("raw", "deflate", "jpeg", "webp"):
        made[name] = Target(partial(payload, name), partial(payloads, name))
    made["entropy in Python"] = Target(partial(entropy_by, library=None), entropy_payloads, 8192)
    if FAST is not None:
        made["entropy compiled"] = Target(entropy_fast, entropy_payloads, 8192)
    made["photo"] = Target(photo, pictures, peak_bytes=2**25)
    return {**made, "tables.bin": Target(tables, table_files)}
