"""The mosaic is a bijection, and it is the paper's where the paper's holds every channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import InputError
from bottlenet.wire.mosaic import Mosaic

sides = st.integers(1, 12)
mosaics = st.builds(Mosaic, st.integers(1, 40), sides, sides, st.integers(1, 9))
quick = settings(max_examples=60, deadline=None)


def numbered(mosaic: Mosaic) -> np.ndarray:
    """Symbols (C, H, W) that are all different; a gather takes any dtype."""
    return np.arange(mosaic.symbol_count).reshape(mosaic.symbols_shape)


@quick
@given(mosaics)
def test_untile_undoes_tile(mosaic: Mosaic) -> None:
    symbols = numbered(mosaic)
    picture = mosaic.tile(symbols)
    assert picture.shape == mosaic.picture_shape
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(mosaic.untile(picture), symbols)


@quick
@given(mosaics)
def test_index_and_inverse_are_a_bijection(mosaic: Mosaic) -> None:
    assert mosaic.index.shape == mosaic.picture_shape
    assert mosaic.index.dtype == mosaic.inverse.dtype == np.int64
    np.testing.assert_array_equal(mosaic.index.reshape(-1)[mosaic.inverse], np.arange(mosaic.symbol_count))
    assert len(set(mosaic.inverse.tolist())) == mosaic.symbol_count


@quick
@given(mosaics, st.integers(0, 3))
def test_a_batch_is_its_pictures(mosaic: Mosaic, batch: int) -> None:
    rng = np.random.default_rng(batch)
    symbols = rng.integers(0, 256, (batch, *mosaic.symbols_shape), np.uint8)
    pictures = mosaic.tile(symbols)
    assert pictures.dtype == np.uint8
    assert pictures.shape == (batch, *mosaic.picture_shape)
    for one, picture in zip(symbols, pictures, strict=True):
        np.testing.assert_array_equal(mosaic.tile(one), picture)
    np.testing.assert_array_equal(mosaic.untile(pictures), symbols)


@quick
@given(st.integers(1, 40), sides, sides, st.integers(1, 9))
def test_a_symbol_is_read_from_its_own_tile(channels: int, height: int, width: int, align: int) -> None:
    """A lossy codec may change padding in another way than the symbol it repeats, so this is not the same as above."""
    mosaic = Mosaic(channels, height, width, align=align)
    rows, cols = mosaic.tile_shape
    picture = np.zeros_like(mosaic.tile(numbered(mosaic)))
    across = mosaic.tiles_shape[1]
    for channel in range(channels):
        top, left = channel // across * rows, channel % across * cols
        picture[top : top + height, left : left + width] = numbered(mosaic)[channel]
    np.testing.assert_array_equal(mosaic.untile(picture), numbered(mosaic))


@pytest.mark.parametrize(
    ("channels", "tiles"),
    # Where 2^ceil(log2(C)/2) x 2^floor(log2(C)/2) tiles hold every channel, the paper's size; (down, across).
    [
        *((1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (5, (2, 4)), (8, (2, 4)), (16, (4, 4)), (32, (4, 8)), (64, (8, 8))),
        # Where they don't, as many rows as it takes.
        *((3, (2, 2)), (10, (3, 4)), (12, (3, 4)), (48, (6, 8))),
    ],
)
def test_the_papers_tiling(channels: int, tiles: tuple[int, int]) -> None:
    mosaic = Mosaic(channels, 28, 28, align=1)
    assert mosaic.tiles_shape == tiles
    assert mosaic.picture_shape == (28 * tiles[0], 28 * tiles[1])
    assert set(mosaic.index.flat) == set(range(mosaic.symbol_count))


def test_one_channel_without_padding_is_the_picture_itself() -> None:
    mosaic = Mosaic(1, 56, 56)
    np.testing.assert_array_equal(mosaic.tile(numbered(mosaic)), numbered(mosaic)[0])


def test_tiles_are_padded_with_their_own_edge_and_left_over_tiles_are_flat() -> None:
    picture = Mosaic(3, 2, 3, align=4).tile(numbered(Mosaic(3, 2, 3)))
    assert picture.tolist() == [
        [0, 1, 2, 2, 6, 7, 8, 8],
        [3, 4, 5, 5, 9, 10, 11, 11],
        [3, 4, 5, 5, 9, 10, 11, 11],
        [3, 4, 5, 5, 9, 10, 11, 11],
        [12, 13, 14, 14, 17, 17, 17, 17],
        [15, 16, 17, 17, 17, 17, 17, 17],
        [15, 16, 17, 17, 17, 17, 17, 17],
        [15, 16, 17, 17, 17, 17, 17, 17],
    ]


def test_cached_arrays_are_computed_once_and_read_only() -> None:
    mosaic = Mosaic(2, 3, 4)
    assert mosaic.index is mosaic.index
    assert mosaic.inverse is mosaic.inverse
    for array in (mosaic.index, mosaic.inverse):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_equal_sizes_are_equal_mosaics() -> None:
    assert Mosaic(2, 3, 4) == Mosaic(2, 3, 4)
    assert len({Mosaic(2, 3, 4), Mosaic(2, 3, 4), Mosaic(2, 3, 4, align=1)}) == 2


@pytest.mark.parametrize("field", ["channels", "height", "width", "align"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, None, 2**24 + 1])
def test_sizes_are_positive_integers(field: str, value: object) -> None:
    sizes = {"channels": 2, "height": 3, "width": 4, field: value}
    with pytest.raises(InputError, match=rf"^mosaic: {field} is .*; give an integer from 1 to 16777216$"):
        Mosaic(**sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 65504, 8), (1, 8, 65504), (1, 4104, 4104), (2**20, 3, 3)])
def test_a_picture_that_is_too_large_is_refused_before_it_is_made(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="sides up to 65500 and 16777216 pixels are allowed"):
        Mosaic(*shape)


def test_other_shapes_are_refused() -> None:
    mosaic = Mosaic(2, 3, 4)
    with pytest.raises(InputError, match=r"\(2, 4, 3\); the last axes must be \(2, 3, 4\)"):
        mosaic.tile(np.zeros((2, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"\(8, 8\); the last axes must be \(8, 16\)"):
        mosaic.untile(np.zeros((8, 8), np.uint8))
