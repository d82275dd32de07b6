"""Lay the channels of a latent out as one grey picture, and take them back.

    symbols (C, H, W)  --tile-->  picture (rows, cols)  --untile-->  symbols (C, H, W)

    C = 5
    +----+----+----+----+
    | c0 | c1 | c2 | c3 |
    +----+----+----+----+
    | c4 |    |    |    |   rest: flat
    +----+----+----+----+

Both are one gather: `picture = symbols.flat[index]`, `symbols = picture.flat[inverse]`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError
from bottlenet.records import check_integer

MAX_SIDE = 65500  # libjpeg's limit
MAX_PIXELS = 2**24  # an index of 128 MiB; the largest ResNet-50 feature map is 2**20 symbols


@dataclass(frozen=True)
class Mosaic:
    """A bijection between the symbols of a latent and pixels of one grey picture.

    The paper's tiling (BottleNet, ISLPED 2019): one tile a channel, tiles in reading order, 2^ceil(log2(C)/2) tiles
    wide. The paper's 2^floor(log2(C)/2) rows don't hold every C (C = 10: 4 x 2 = 8
    tiles), so there are ceil(C / wide) rows. A tile is padded at its right and lower edge, by repeating the edge,
    to a multiple of `align`, so that no 8x8 transform block straddles two channels; 1 means no padding. Tiles that
    are left over repeat the last symbol: flat blocks cost next to nothing.

    InputError: sizes that are no positive integers, or a picture with a side above 65,500 or more than 2**24
    pixels.
    """

    channels: int
    height: int
    width: int
    align: int = 8

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width", "align"):
            check_integer(f"mosaic: {name}", getattr(self, name), 1, MAX_PIXELS)
        rows, cols = self.picture_shape
        if max(rows, cols) > MAX_SIDE or rows * cols > MAX_PIXELS:
            what = f"{self.channels} x {self.height} x {self.width} symbols make a picture of {rows} x {cols}"
            most = f"sides up to {MAX_SIDE} and {MAX_PIXELS} pixels are allowed"
            raise InputError(f"mosaic: {what}; {most}: cut later or reduce more")

    @property
    def symbols_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def symbol_count(self) -> int:
        """C * H * W."""
        return self.channels * self.height * self.width

    @property
    def tiles_shape(self) -> tuple[int, int]:
        """Tiles (down, across)."""
        # The smallest power of two whose square is at least C, which is 2^ceil(log2(C)/2) without rounding errors.
        across = 1 << (((self.channels - 1).bit_length() + 1) // 2)
        return -(-self.channels // across), across

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Pixels of one tile (rows, cols), padding included."""
        return -(-self.height // self.align) * self.align, -(-self.width // self.align) * self.align

    @property
    def picture_shape(self) -> tuple[int, int]:
        """Pixels (rows, cols)."""
        down, across = self.tiles_shape
        rows, cols = self.tile_shape
        return down * rows, across * cols

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """(rows, cols): for each pixel of the picture, the symbol it shows, counted in C, H, W order. Read-only."""
        (down, across), (rows, cols) = self.tiles_shape, self.tile_shape
        tiles = np.arange(self.symbol_count, dtype=np.int64).reshape(self.symbols_shape)
        tiles = np.pad(tiles, ((0, 0), (0, rows - self.height), (0, cols - self.width)), mode="edge")
        spare = np.full((down * across - self.channels, rows, cols), self.symbol_count - 1)
        laid = np.concatenate([tiles, spare]).reshape(down, across, rows, cols)
        index = np.ascontiguousarray(laid.transpose(0, 2, 1, 3)).reshape(self.picture_shape)
        index.flags.writeable = False
        return index

    @cached_property
    def inverse(self) -> NDArray[np.int64]:
        """(C*H*W,): for each symbol, the pixel that carries it, counted row by row. Read-only."""
        down, across = self.tiles_shape
        rows, cols = self.tile_shape
        pixels = np.arange(down * rows * across * cols, dtype=np.int64)
        tiles = pixels.reshape(down, rows, across, cols).transpose(0, 2, 1, 3).reshape(-1, rows, cols)
        inverse = np.ascontiguousarray(tiles[: self.channels, : self.height, : self.width].reshape(-1))
        inverse.flags.writeable = False
        return inverse

    def check(self, symbols: NDArray[np.uint8], *, batch: bool = False) -> None:
        """Raise InputError unless `symbols` is uint8 (C, H, W), or a `batch` (B, C, H, W)."""
        shape = (*symbols.shape[:1], *self.symbols_shape) if batch else self.symbols_shape
        if symbols.dtype != np.uint8 or symbols.shape != shape:
            raise InputError(f"symbols are {symbols.dtype} of shape {symbols.shape}; give uint8 of shape {shape}")

    def tile(self, symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lay (..., C, H, W) out as (..., rows, cols), C-contiguous; the dtype stays. InputError: another shape."""
        if symbols.shape[-3:] != self.symbols_shape:
            raise InputError(f"mosaic: symbols of shape {symbols.shape}; the last axes must be {self.symbols_shape}")
        lead = symbols.shape[:-3]
        return np.take(symbols.reshape(*lead, self.symbol_count), self.index, axis=-1)  # (..., rows, cols)

    def untile(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Take (..., rows, cols) back to (..., C, H, W), C-contiguous; the dtype stays. InputError: another shape."""
        if picture.shape[-2:] != self.picture_shape:
            raise InputError(f"mosaic: a picture of shape {picture.shape}; the last axes must be {self.picture_shape}")
        lead = picture.shape[:-2]
        flat = np.take(picture.reshape(*lead, math.prod(self.picture_shape)), self.inverse, axis=-1)  # (..., C*H*W)
        return flat.reshape(*lead, *self.symbols_shape)
