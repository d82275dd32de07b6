"""What a decoder of the entropy codec knows so far: several latents at once, pass by pass.

    rows of the tables <- contexts of what is known -> outcomes, by each latent's range decoder -> more is known

A latent of 7 x 7 has so few positions that numpy's calls would take longer than what they do. All latents go through
the same passes, so one call does for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bottlenet.wire.contexts import ZERO, Contexts
from bottlenet.wire.range_coder import Outcomes, Rows
from bottlenet.wire.tables import STEPS

Read: TypeAlias = Callable[[int, Rows], Outcomes]
"""The next outcomes of one latent, fewer than rows where its payload ends."""


class Latents:
    """(B, C, H, W), as arrays (C, B, H * W) in coded order; magnitudes have one place more, which stays 0."""

    def __init__(self, contexts: Contexts, count: int) -> None:
        channels, places = contexts.shape[0], len(contexts.places)
        self._contexts = contexts
        self._magnitudes = np.zeros((channels, count, places + 1), np.int16)  # in units of the channel's last step
        self._signs = np.zeros((channels, count, places), np.int16)
        self._depths = np.zeros((channels, count), np.intp)  # planes known
        self._energy = np.zeros((count, places), np.uint16)  # channels that are not 0 there

    def deepen(self, channel: int, which: Sequence[int]) -> None:
        """Take one channel of those latents one plane further, with trits that are all 0."""
        if which:
            index = self._index(which)
            self._magnitudes[channel, index] *= 3
            self._depths[channel, index] += 1

    def refine(self, channel: int, which: Sequence[int], read: Read, first_row: int) -> list[int]:
        """The same with trits that `read` gives. Those latents come back of which all trits were there."""
        contexts, index = self._contexts, self._index(which)
        before = self._magnitudes[channel, index]  # (L, H * W + 1)
        after = 3 * before
        energy = self._energy[index]
        rows: Rows = contexts.energy.take(energy).astype(np.intp) + first_row  # (L, H * W)
        trits = np.zeros(energy.shape, np.int16)
        split = len(contexts.even_places)
        even, odd = slice(0, split), slice(split, rows.shape[1])

        activity = np.add.reduce(before.take(contexts.neighbours_even, axis=1), axis=1)
        rows[:, even] += contexts.state_even.take(before[:, even]) + contexts.activity_even.take(activity)
        there = read_half(which, read, rows[:, even], trits[:, even])
        after[:, even] = np.abs(after[:, even] + trits[:, even])

        activity = np.add.reduce(after.take(contexts.neighbours_odd, axis=1), axis=1)
        rows[:, odd] += contexts.state_odd.take(before[:, odd]) + contexts.activity_odd.take(activity)
        complete = read_half(which, read, rows[:, odd], trits[:, odd], there)
        after[:, odd] = np.abs(after[:, odd] + trits[:, odd])

        was_zero = before[:, :-1] == 0
        self._signs[channel, index] = np.where(was_zero, trits, self._signs[channel, index])
        self._energy[index] = energy + (was_zero & (trits != 0))
        self._magnitudes[channel, index] = after
        self._depths[channel, index] += 1
        return [which[place] for place in complete]

    def _index(self, which: Sequence[int]) -> Sequence[int] | slice:
        """A slice where it is all of them, which numpy is sooner done with."""
        return slice(None) if len(which) == len(self._energy) else which

    def symbols(self) -> NDArray[np.uint8]:
        """(B, C, H, W)."""
        steps = np.array([0, *STEPS], np.int16)[self._depths]  # (C, B)
        values = self._signs * self._magnitudes[..., :-1] * steps[..., None] + ZERO
        channels, height, width = self._contexts.shape
        symbols = np.empty((values.shape[1], channels, height * width), np.uint8)
        symbols[..., self._contexts.reading] = values.transpose(1, 0, 2)
        return symbols.reshape(-1, channels, height, width)


def read_half(
    which: Sequence[int], read: Read, rows: Rows, trits: NDArray[np.int16], places: Sequence[int] | None = None
) -> list[int]:
    """Fills the trits (L, n) of those `places` (all, if None), as far as there are any; the places of which all are."""
    complete = []
    for place in range(len(which)) if places is None else places:
        outcomes = read(which[place], rows[place])
        trits[place, : len(outcomes)] = outcomes - 1
        if len(outcomes) == rows.shape[1]:
            complete.append(place)
    return complete
