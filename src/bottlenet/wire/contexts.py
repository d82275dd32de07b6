"""What a trit's distribution depends on, for many passes at once: symbols -> rows of the tables.

A *lane* is one channel of one latent at one plane, padded by one position on each side, as numbers

    key = 256 * plane + symbol                                                        # (L, (H + 2) * (W + 2)) intp

for then everything about the symbol alone (its trit, state, magnitude) is one look-up. Inside a lane the positions
are coded in two halves like the fields of a chessboard: y + x even in reading order, then y + x odd.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bottlenet.wire.tables import PLANES, STEPS, Bins

ZERO = 128  # the symbol that stands for 0
MAX_VALUE = 121
MAX_SUM = 8 * MAX_VALUE  # of the neighbours' magnitudes

Lanes = NDArray[np.intp]
Counts = NDArray[np.uint16]


class Contexts:
    """Look-up tables for latents of (C, H, W) whose contexts are cut by `bins`.

    A *code* is 4 * row + trit + 1, uint16, with the trit multiplied by the sign of what is known before, and the row
    counted within the pass.
    """

    def __init__(self, channels: int, height: int, width: int, bins: Bins) -> None:
        self.shape = (channels, height, width)
        self.rows = bins.rows
        y, x = np.indices((height, width))
        inside = ((y + 1) * (width + 2) + x + 1).ravel()  # places in a padded lane, in reading order
        odd = ((y + x) % 2).ravel().astype(bool)
        self.even_places, self.odd_places = inside[~odd], inside[odd]
        self.places = np.concatenate([self.even_places, self.odd_places])  # (H * W,) in coded order
        self.reading = np.concatenate([np.flatnonzero(~odd), np.flatnonzero(odd)])  # coded order -> reading order
        coded = np.full((height + 2) * (width + 2), height * width)  # place -> coded order; the padding: one behind it
        coded[self.places] = np.arange(height * width)
        # Of each even position the 8 neighbours, and of each odd one the 4 that share a side, in coded order.
        row = width + 2
        sides, corners = (-row, -1, 1, row), (-row - 1, -row + 1, row - 1, row + 1)
        self.neighbours_even = np.stack([coded[self.even_places + step] for step in sides + corners])
        self.neighbours_odd = np.stack([coded[self.odd_places + step] for step in sides])
        self.row_places = width + 2
        self.lane_places = (height + 2) * (width + 2)

        states, evens, odds, energies = bins.sizes
        magnitudes = np.arange(MAX_VALUE + 1)
        state = binned(magnitudes, bins.state)
        odd_base = states * evens * energies  # the first row of the second half
        # Each value says how far it moves the row; a row is their sum.
        self.state_even = (state * evens * energies).astype(np.uint16)
        self.state_odd = (state * odds * energies + odd_base).astype(np.uint16)
        self.activity_even = (binned(np.arange(MAX_SUM + 1), bins.even) * energies).astype(np.uint16)
        self.activity_odd = (binned(np.arange(MAX_SUM + 1), bins.odd) * energies).astype(np.uint16)
        self.energy = binned(np.arange(channels + 1), bins.energy).astype(np.uint16)

        before, after = known(0), known(1)  # (planes, 256)
        trit = (after - 3 * before) * np.where(before < 0, -1, 1)
        self.before = np.abs(before).astype(np.uint16).ravel()  # key -> |q_prev| / 3d
        self.after = np.abs(after).astype(np.uint16).ravel()  # key -> |q| / d
        self.moves = (trit != 0).ravel()  # key -> the trit is not 0
        self.wakes = ((before == 0) & (after != 0)).astype(np.uint16).ravel()  # key -> becomes non-zero
        self.code_even = (4 * self.state_even[self.before] + trit.ravel() + 1).astype(np.uint16)
        self.code_odd = (4 * self.state_odd[self.before] + trit.ravel() + 1).astype(np.uint16)

    def padded(self, symbols: NDArray[np.uint8]) -> Lanes:
        """(..., C, H, W) uint8 -> (..., C, (H + 2) * (W + 2)): keys of plane 0, which 256 a plane is added to."""
        lead = symbols.shape[:-2]
        height, width = symbols.shape[-2:]
        keys = np.full((*lead, height + 2, width + 2), ZERO, np.intp)
        keys[..., 1:-1, 1:-1] = symbols
        return keys.reshape(*lead, self.lane_places)

    def codes(self, lanes: Lanes, energy: Counts) -> Counts:
        """Lanes (L, places) and, in coded order, the energy before each (L, H * W) -> codes (L, H * W), coded order."""
        even = self.code_even.take(lanes.take(self.even_places, axis=1))
        odd = self.code_odd.take(lanes.take(self.odd_places, axis=1))
        even += 4 * self.activity_even.take(self.around(self.before.take(lanes)).take(self.even_places, axis=1))
        odd += 4 * self.activity_odd.take(self.beside(self.after.take(lanes)).take(self.odd_places, axis=1))
        codes: Counts = np.concatenate([even, odd], axis=1)
        codes += 4 * self.energy.take(energy)
        return codes

    def around(self, magnitudes: Counts) -> Counts:
        """(..., places) -> sum over the 8 neighbours; what stands on the padding means nothing."""
        flat, row = magnitudes.ravel(), self.row_places
        sums = np.zeros_like(flat)
        three = flat[:-2] + flat[1:-1]
        three += flat[2:]
        inner = sums[row + 1 : -row - 1]
        np.add(three[: -2 * row], three[2 * row :], out=inner)
        inner += three[row:-row]
        inner -= flat[row + 1 : -row - 1]
        return sums.reshape(magnitudes.shape)

    def beside(self, magnitudes: Counts) -> Counts:
        """(..., places) -> sum over the 4 neighbours that share a side; the padding means nothing."""
        flat, row = magnitudes.ravel(), self.row_places
        sums = np.zeros_like(flat)
        inner = sums[row + 1 : -row - 1]
        np.add(flat[1 : -2 * row - 1], flat[2 * row + 1 : -1], out=inner)
        inner += flat[row : -row - 2]
        inner += flat[row + 2 : -row]
        return sums.reshape(magnitudes.shape)


def binned(values: NDArray[np.intp], thresholds: tuple[int, ...]) -> NDArray[np.intp]:
    """How many thresholds each value reaches."""
    return np.searchsorted(np.array(thresholds, np.intp), values, side="right")


def known(planes: int) -> NDArray[np.intp]:
    """(5, 256): each symbol's value as it is known after `planes` more planes, in units of the last one's step.

    Row p is about plane p: 0 gives q_prev / 3d, 1 gives q / d. Steps are odd, so there is no tie to round.
    """
    values = np.clip(np.arange(256) - ZERO, -MAX_VALUE, MAX_VALUE)
    rows = [np.zeros(256, np.intp), *((values + step // 2) // step for step in STEPS)]
    return np.stack(rows[planes : planes + PLANES])
