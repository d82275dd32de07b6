"""Codecs give back what they took, exactly or as far as their files do, and refuse everything else."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import InputError, PayloadError
from bottlenet.wire.codecs import CODECS, CODES, Codec, Deflate, Jpeg, Raw, WebP, make_codec
from bottlenet.wire.entropy import Entropy
from bottlenet.wire.mosaic import Mosaic
from bottlenet.wire.pictures import jpeg_header
from latents import flat_tables

SPEC = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())

SETTINGS = {"raw": 0, "deflate": 9, "jpeg": 20, "webp": 20, "entropy": 0}
SMALL = Mosaic(5, 7, 9)

quick = settings(max_examples=60, deadline=None)
mosaics = st.builds(Mosaic, st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 8]))

# docs/wire.md: (2, 8, 8) symbols, 40 * c + 16 * y + 8 * x at channel c, row y, column x.
GOLDEN_MOSAIC = Mosaic(2, 8, 8)
GOLDEN_SYMBOLS = np.tensordot([40, 16, 8], np.indices((2, 8, 8)), 1).astype(np.uint8)
GOLDEN_PAYLOADS = {
    "deflate": (
        "63e0109050d030b080900e1e1032200242266440c8820a08d9d0012127cc80900b5640952740951740953740954f802a5f0055be0142ee38"
        "00214f5c0000"
    ),
    "jpeg": "ad15afb5588ad7dabf",
    "webp": "b001009d012a1000080005407c25a40002e68f192e0000fee9fd38d18c1f339ff4d80000",
}


def symbols_of(mosaic: Mosaic, seed: int = 0, batch: int = 1) -> np.ndarray:
    """(B, C, H, W) uint8 that are neither flat nor noise."""
    steps = np.random.default_rng(seed).standard_normal((batch, *mosaic.symbols_shape)).cumsum(2).cumsum(3)
    symbols: np.ndarray = np.clip(128 + 12 * steps, 7, 249).astype(np.uint8)
    return symbols


def codec_of(name: str, mosaic: Mosaic) -> Codec:
    return make_codec(name, mosaic, SETTINGS[name], flat_tables(*mosaic.symbols_shape) if name == "entropy" else None)


@pytest.fixture(params=sorted(SETTINGS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return codec_of(request.param, SMALL)


def test_numbers_on_the_wire_stay() -> None:
    assert CODES == {0: "raw", 1: "deflate", 2: "jpeg", 3: "webp", 4: "entropy"}
    assert {name: kind.code for name, kind in CODECS.items()} == {name: code for code, name in CODES.items()}


def test_make_codec_gives_name_code_and_setting(codec: Codec) -> None:
    assert type(codec) is CODECS[codec.name]
    assert codec == codec_of(codec.name, SMALL)
    assert CODES[codec.code] == codec.name
    assert codec.setting == SETTINGS[codec.name]
    assert codec.mosaic is SMALL


def test_defaults() -> None:
    assert [kind(SMALL).setting for kind in (Raw, Deflate, Jpeg, WebP)] == [0, 9, 20, 20]


@quick
@given(mosaics, st.sampled_from(sorted(SETTINGS)), st.integers(0, 3))
def test_round_trip_is_encode_then_decode(mosaic: Mosaic, name: str, batch: int) -> None:
    codec = codec_of(name, mosaic)
    symbols = symbols_of(mosaic, batch, batch)
    symbols_hat, payload_bytes = codec.round_trip(symbols)
    assert symbols_hat.shape == symbols.shape
    assert symbols_hat.dtype == np.uint8
    assert payload_bytes.shape == (batch,)
    assert payload_bytes.dtype == np.int64
    for number in range(batch):
        payload = codec.encode(symbols[number])
        assert len(payload) == payload_bytes[number]
        np.testing.assert_array_equal(codec.decode(payload), symbols_hat[number])


@pytest.mark.parametrize("mosaic", [Mosaic(1, 28, 28), Mosaic(3, 14, 14, align=1), Mosaic(1, 2050, 2050)])
def test_a_large_batch_of_jpegs_is_what_photo_by_photo_gives(mosaic: Mosaic) -> None:
    """In one tall picture, in several where it would be too tall, and alone where a picture has too many blocks."""
    batch = 2500 if mosaic.height < 100 else 2
    codec, symbols = Jpeg(mosaic, 35), np.tile(symbols_of(mosaic, batch=min(batch, 25)), (-(-batch // 25), 1, 1, 1))
    symbols_hat, payload_bytes = codec.round_trip(symbols)
    for number in range(0, len(symbols), 49):
        payload = codec.encode(symbols[number])
        assert len(payload) == payload_bytes[number]
        np.testing.assert_array_equal(codec.decode(payload), symbols_hat[number])


@quick
@given(mosaics, st.data())
def test_lossless_codecs_lose_nothing(mosaic: Mosaic, data: st.DataObject) -> None:
    plain = data.draw(st.binary(min_size=mosaic.symbol_count, max_size=mosaic.symbol_count))
    symbols = np.frombuffer(plain, np.uint8).reshape(mosaic.symbols_shape)
    for codec in (Raw(mosaic), Deflate(mosaic), Deflate(mosaic, 0)):
        np.testing.assert_array_equal(codec.decode(codec.encode(symbols)), symbols)


def test_what_comes_back_is_ones_own(codec: Codec) -> None:
    symbols = symbols_of(SMALL)
    for back in (codec.decode(codec.encode(symbols[0])), codec.round_trip(symbols)[0]):
        assert back.flags.writeable
        assert back.flags.c_contiguous
        assert not np.shares_memory(back, symbols)


def test_memory_order_of_the_symbols_plays_no_part(codec: Codec) -> None:
    symbols = symbols_of(SMALL)[0]
    assert codec.encode(np.asfortranarray(symbols)) == codec.encode(symbols)


def test_higher_quality_is_nearer_and_larger() -> None:
    symbols = symbols_of(Mosaic(4, 28, 28))
    for kind in (Jpeg, WebP):
        coarse, fine = kind(Mosaic(4, 28, 28), 10), kind(Mosaic(4, 28, 28), 90)
        near = [np.abs(codec.round_trip(symbols)[0].astype(int) - symbols).mean() for codec in (coarse, fine)]
        assert near[0] > 2 * near[1]
        assert coarse.round_trip(symbols)[1] < fine.round_trip(symbols)[1]


def test_left_over_tiles_cost_next_to_nothing() -> None:
    """Ten channels on 3 x 4 tiles: six bits for each block of the two tiles more, and one step to their grey."""
    symbols = np.repeat(symbols_of(Mosaic(1, 16, 16))[0], 12, axis=0)  # the same channel twelve times
    twelve = len(Jpeg(Mosaic(12, 16, 16)).encode(symbols))
    ten = len(Jpeg(Mosaic(10, 16, 16)).encode(symbols[:10]))
    assert ten < twelve * 10 / 12 + 2 * 4 * 6 / 8 + 4


@pytest.mark.parametrize("name", sorted(GOLDEN_PAYLOADS))
def test_golden_payloads_decode(name: str) -> None:
    payload = bytes.fromhex(GOLDEN_PAYLOADS[name])
    symbols_hat = make_codec(name, GOLDEN_MOSAIC, SETTINGS[name]).decode(payload)
    assert np.abs(symbols_hat.astype(int) - GOLDEN_SYMBOLS).max() <= (0 if name == "deflate" else 32)
    assert payload.hex() in SPEC


def test_golden_jpeg_and_raw_to_the_byte() -> None:
    """JPEG's integer transforms are exact everywhere; DEFLATE and WebP leave the encoder a choice."""
    jpeg = Jpeg(GOLDEN_MOSAIC)
    assert jpeg.encode(GOLDEN_SYMBOLS).hex() == GOLDEN_PAYLOADS["jpeg"]
    assert jpeg_header(GOLDEN_MOSAIC.picture_shape, 20).hex() in SPEC
    assert Raw(GOLDEN_MOSAIC).encode(GOLDEN_SYMBOLS) == GOLDEN_SYMBOLS.tobytes()
    assert GOLDEN_SYMBOLS.tobytes().hex() in SPEC
    assert jpeg.decode(jpeg.encode(GOLDEN_SYMBOLS)).tobytes().hex() in SPEC


def test_every_truncation_is_refused_unless_embedded(codec: Codec) -> None:
    payload = codec.encode(symbols_of(SMALL)[0])
    for length in range(len(payload)):
        if codec.name == "entropy" and length:
            assert codec.decode(payload[:length]).shape == SMALL.symbols_shape
            continue
        with pytest.raises(PayloadError):
            codec.decode(payload[:length])


@quick
@given(st.sampled_from(sorted(SETTINGS)), st.binary(max_size=700))
def test_garbage_is_an_error_or_symbols(name: str, payload: bytes) -> None:
    try:
        symbols_hat = codec_of(name, SMALL).decode(payload)
    except PayloadError:
        return
    assert symbols_hat.shape == SMALL.symbols_shape
    assert symbols_hat.dtype == np.uint8


def test_raw_of_another_length_is_refused() -> None:
    for length, word in ((314, "fewer"), (316, "more")):
        with pytest.raises(PayloadError, match=f"{word} than the 315 symbols"):
            Raw(SMALL).decode(bytes(length))


def deflated(plain: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return deflater.compress(plain) + deflater.flush()


def test_deflate_of_another_length_is_refused() -> None:
    for length, word in ((314, "fewer"), (316, "more"), (0, "fewer")):
        with pytest.raises(PayloadError, match=f"{word} than the 315 symbols"):
            Deflate(SMALL).decode(deflated(bytes(length)))


def test_deflate_with_something_after_its_end_is_refused() -> None:
    with pytest.raises(PayloadError, match="2 bytes after its end"):
        Deflate(SMALL).decode(deflated(bytes(315)) + b"ab")


def test_a_deflate_bomb_stops_at_the_size_of_the_latent() -> None:
    bomb = deflated(bytes(2**25))
    codec = Deflate(SMALL)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError, match="more than the 315 symbols"):
            codec.decode(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(bomb)  # the bomb itself is kept as what is left over


@pytest.mark.parametrize("shape", [(5, 7), (5, 9, 7), (1, 5, 7, 9), (6, 7, 9)])
def test_symbols_of_another_shape_are_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"give uint8 of shape \(5, 7, 9\)"):
        codec.encode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32])
def test_symbols_of_another_dtype_are_refused(codec: Codec, dtype: type) -> None:
    with pytest.raises(InputError, match="give uint8 of shape"):
        codec.encode(np.zeros(SMALL.symbols_shape, dtype))
    with pytest.raises(InputError, match="give uint8 of shape"):
        codec.round_trip(np.zeros((2, *SMALL.symbols_shape), dtype))


def test_a_batch_has_four_axes(codec: Codec) -> None:
    with pytest.raises(InputError, match="give uint8 of shape"):
        codec.round_trip(np.zeros(SMALL.symbols_shape, np.uint8))


@pytest.mark.parametrize(
    ("name", "setting", "allowed"),
    [
        ("raw", 1, "it is always 0"),
        ("deflate", 10, "0 to 9"),
        ("deflate", -1, "0 to 9"),
        ("jpeg", 0, "1 to 100"),
        ("jpeg", 101, "1 to 100"),
        ("jpeg", 20.0, "1 to 100"),
        ("jpeg", True, "1 to 100"),
        ("webp", 101, "0 to 100"),
        ("webp", "20", "0 to 100"),
        ("entropy", 1, "it is always 0"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, setting: int, allowed: str) -> None:
    with pytest.raises(InputError, match=allowed):
        make_codec(name, SMALL, setting)


def test_an_unknown_codec_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="no codec 'png'; choose one of raw, deflate, jpeg, webp, entropy"):
        make_codec("png", SMALL, 0)


def test_entropy_needs_tables_and_nothing_else_does() -> None:
    tables = flat_tables(*SMALL.symbols_shape)
    with pytest.raises(InputError, match=r"there are no tables; take the codec of a bundle that holds tables\.bin"):
        make_codec("entropy", SMALL, 0)
    assert make_codec("entropy", SMALL, 0, tables) == Entropy(SMALL, tables)
    assert make_codec("jpeg", SMALL, 20, tables) == Jpeg(SMALL, 20)


def test_a_picture_too_large_for_webp_is_refused() -> None:
    with pytest.raises(InputError, match="16384 x 8; WebP allows 16383 a side: use jpeg"):
        WebP(Mosaic(1, 16384, 8))
