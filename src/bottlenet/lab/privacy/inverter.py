"""The attacker's network: what was sent -> the photo.

    sent (C + 1, h, w) --+--> linear, as fitted ---------------------------------------> tiles -----+
                         |                                                                          + -> photo
                         `--> stem -> [blocks -> twice the size]* -> blocks -> tiles ---------------'

The linear map is the best there is, and stays as it is; the network learns what it leaves over, from next to nothing at
the start. Most work is done where the picture is small, as most of the error is there: width * 4 channels and all of
the blocks at 1/16 of the side, width and a few at a quarter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.lab.privacy.linear import Linear

MOST_TIMES = 4  # width, in the smallest sizes


class Block(nn.Module):
    """Two convolutions, between them what the whole picture has on average, and what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(8 if channels % 8 == 0 else 1, channels)
        self.whole = nn.Conv2d(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)  # many blocks start as what came in, or nearly

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        inner = F.gelu(self.norm(self.first(x)))
        inner = inner + self.whole(inner.mean((2, 3), keepdim=True))
        made: Tensor = x + self.second(inner)
        return made


class Larger(nn.Module):
    """(B, channels, h, w) -> (B, fewer, 2h, 2w)."""

    def __init__(self, channels: int, fewer: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * fewer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Four channels are four pixels."""
        return F.gelu(F.pixel_shuffle(self.conv(x), 2))


class Inverter(nn.Module):
    """See the drawing above. `grid` and `side` are heights of what was sent and of the photo, a power of 2 apart."""

    def __init__(self, linear: Linear, grid: int, side: int, *, width: int, blocks: int) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight)
        self.register_buffer("bias", linear.bias)
        self.penalty = linear.penalty
        sizes = [grid]
        while sizes[-1] * 8 <= side:
            sizes.append(sizes[-1] * 2)
        channels = [width * min(MOST_TIMES, max(1, side // (4 * size))) for size in sizes]
        parts: list[nn.Module] = [nn.Conv2d(linear.weight.shape[1], channels[0], 3, padding=1), nn.GELU()]
        for number, count in enumerate(channels):
            if number:
                parts.append(Larger(channels[number - 1], count))
            parts += [Block(count) for _ in range(max(1, blocks >> number))]
        tile = side // sizes[-1]
        last = nn.Conv2d(channels[-1], 3 * tile * tile, 3, padding=1)
        nn.init.normal_(last.weight, std=1e-3)  # of zeros, the other layers' first gradients would be nothing
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.learned = nn.Sequential(*parts, last, nn.PixelShuffle(tile))

    @property
    def fitted(self) -> Linear:
        """The linear map."""
        return Linear(self.get_buffer("weight"), self.get_buffer("bias"), self.penalty)

    def forward(self, sent: Tensor) -> Tensor:
        """(B, C + 1, grid, grid) -> (B, 3, side, side), about 0..1."""
        with torch.no_grad():
            start = self.fitted(sent)
        made: Tensor = start + self.learned(sent)
        return made


def side_of(grid: int, most: int) -> int:
    """The largest side that is `grid` doubled so many times, and not above `most`; `grid` at least."""
    side = grid
    while side * 2 <= most:
        side *= 2
    return side
