"""Stripped pictures are complete files again once the receiver has put back what it knows."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bottlenet.errors import PayloadError
from bottlenet.wire.pictures import (
    JPEG_EOI,
    jpeg_file,
    jpeg_header,
    pack_jpeg,
    pack_webp,
    unpack_jpeg,
    unpack_webp,
    webp_header,
)

quick = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))
payloads = st.binary(max_size=600)

# ITU-T T.81: the luminance table of Annex K.1, row by row, and the Huffman tables of Annex K.3.
QUANT = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
DC = "00010501010101010100000000000000 000102030405060708090a0b"
AC = """
0002010303020403050504040000017d 01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a16
1718191a25262728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a83848586878889
8a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9ea
f1f2f3f4f5f6f7f8f9fa
"""


def header_by_the_book(rows: int, cols: int, quality: int) -> bytes:
    """docs/wire.md's recipe, without any JPEG library."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = [min(max((int(step) * scale + 50) // 100, 1), 255) for step in QUANT.split()]
    # Zigzag: diagonals from the upper left, every other one upwards.
    order = sorted(range(64), key=lambda at: (at // 8 + at % 8, at % 8 if (at // 8 + at % 8) % 2 == 0 else at // 8))
    return b"".join(
        (
            bytes.fromhex("ffd8 ffe0 0010 4a46494600 0101 00 0001 0001 0000"),
            bytes.fromhex("ffdb 0043 00") + bytes(steps[at] for at in order),
            bytes.fromhex("ffc0 000b 08") + rows.to_bytes(2, "big") + cols.to_bytes(2, "big"),
            bytes.fromhex("01 01 11 00"),
            bytes.fromhex("ffc4 001f 00" + DC),
            bytes.fromhex("ffc4 00b5 10" + AC),
            bytes.fromhex("ffda 0008 01 01 00 00 3f 00"),
        )
    )


def smooth(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A picture (rows, cols) uint8 that is neither flat nor noise."""
    steps = np.random.default_rng(seed).standard_normal(shape).cumsum(0).cumsum(1)
    picture: np.ndarray = np.clip(128 + 6 * steps, 0, 255).astype(np.uint8)
    return picture


def with_a_flipped_bit(payload: bytes) -> list[bytes]:
    """All of them."""
    whole = int.from_bytes(payload, "big")
    return [(whole ^ 1 << bit).to_bytes(len(payload), "big") for bit in range(8 * len(payload))]


def refused(unpack: Callable[[bytes], np.ndarray], payload: bytes) -> bool:
    """Whether `unpack` says PayloadError, in one line; if it doesn't, it has to give a picture of 28 x 28."""
    try:
        picture = unpack(payload)
    except PayloadError as error:
        said = str(error)
    else:
        said = ""
        assert picture.shape == (28, 28)
        assert picture.dtype == np.uint8
    assert "\n" not in said
    return bool(said)


@pytest.mark.parametrize("quality", [1, 10, 20, 49, 50, 75, 99, 100])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (84, 112), (1, 300), (640, 17)])
def test_jpeg_header_is_the_specified_one(shape: tuple[int, int], quality: int) -> None:
    """Sender and receiver make it on their own, so it may not depend on what libjpeg likes."""
    assert jpeg_header(shape, quality) == header_by_the_book(*shape, quality)
    assert len(jpeg_header(shape, quality)) == 328


@quick
@given(shapes, st.integers(1, 100), st.integers(0, 99))
def test_jpeg_is_a_full_round_trip_less_330_bytes(shape: tuple[int, int], quality: int, seed: int) -> None:
    picture = smooth(shape, seed)
    file = simplejpeg.encode_jpeg(picture[..., None], quality=quality, colorspace="GRAY")
    scan = pack_jpeg(picture, quality)
    assert jpeg_header(shape, quality) + scan + JPEG_EOI == file
    assert len(scan) == len(file) - 330

    picture_hat = unpack_jpeg(scan, shape, quality)
    np.testing.assert_array_equal(picture_hat, simplejpeg.decode_jpeg(file, colorspace="GRAY")[..., 0])
    with Image.open(io.BytesIO(file)) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(picture_hat, np.asarray(image))


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (56, 56)])
def test_jpeg_cut_anywhere_is_refused(shape: tuple[int, int]) -> None:
    scan = pack_jpeg(smooth(shape), 20)
    for length in range(len(scan)):
        with pytest.raises(PayloadError, match=r"^jpeg payload of"):
            unpack_jpeg(scan[:length], shape, 20)


def test_jpeg_with_markers_is_refused_before_libjpeg_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = pack_jpeg(smooth((16, 16)), 20)
    other = jpeg_file(smooth((1000, 1000)), 20)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    for payload in (other, scan + other, scan + JPEG_EOI, scan + b"\xff", b"\xff\xff\x00" + scan, b"\xff\xd0" + scan):
        with pytest.raises(PayloadError, match="has a marker in it"):
            unpack_jpeg(payload, (16, 16), 20)


def test_jpeg_of_another_picture_size_is_refused_or_fits() -> None:
    """A scan doesn't know its size: too few blocks show, too many blocks show."""
    scan = pack_jpeg(smooth((56, 56)), 20)
    for shape in ((64, 56), (8, 8)):
        with pytest.raises(PayloadError, match="Corrupt JPEG data"):
            unpack_jpeg(scan, shape, 20)


def test_jpeg_damage_is_an_error_or_a_picture() -> None:
    scan = pack_jpeg(smooth((28, 28)), 20)
    assert True in {refused(lambda data: unpack_jpeg(data, (28, 28), 20), data) for data in with_a_flipped_bit(scan)}


@quick
@given(payloads)
def test_garbage_is_an_error_or_a_picture(payload: bytes) -> None:
    refused(lambda data: unpack_jpeg(data, (28, 28), 20), payload)
    refused(lambda data: unpack_webp(data, (28, 28)), payload)
    # As far as a garbled key frame can come: the right start, the right size.
    refused(lambda data: unpack_webp(data, (28, 28)), bytes.fromhex("b001009d012a1c001c00") + payload)


@quick
@given(shapes, st.integers(0, 100), st.integers(0, 99))
def test_webp_is_a_full_round_trip_less_20_bytes(shape: tuple[int, int], quality: int, seed: int) -> None:
    picture = smooth(shape, seed)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=4)
    payload = pack_webp(picture, quality)
    assert webp_header(len(payload)) + payload == buffer.getvalue()
    assert len(payload) == len(buffer.getvalue()) - 20
    with Image.open(buffer) as image:
        np.testing.assert_array_equal(unpack_webp(payload, shape), np.asarray(image.convert("L")))


def test_webp_stays_near_the_picture() -> None:
    picture = smooth((56, 56))
    difference = unpack_webp(pack_webp(picture, 100), picture.shape).astype(int) - picture
    assert np.abs(difference).mean() < 1


def test_webp_cut_anywhere_is_refused() -> None:
    payload = pack_webp(smooth((28, 28)), 20)
    for length in range(len(payload)):
        with pytest.raises(PayloadError, match=r"^webp payload of .* bytes is"):
            unpack_webp(payload[:length], (28, 28))


def test_webp_damage_is_an_error_or_a_picture() -> None:
    payload = pack_webp(smooth((28, 28)), 20)
    assert True in {refused(lambda data: unpack_webp(data, (28, 28)), data) for data in with_a_flipped_bit(payload)}


def test_webp_of_another_size_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = bytearray(pack_webp(smooth((28, 28)), 20))
    payload[6:10] = (16383).to_bytes(2, "little") * 2
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(PayloadError, match="picture of 16383 x 16383, but this bundle's is 28 x 28"):
        unpack_webp(bytes(payload), (28, 28))
