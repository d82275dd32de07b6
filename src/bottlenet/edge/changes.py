"""Tell whether a fixed camera shows something else than in the frame that was sent last.

    frame -> head -> symbols -> distance to those that were sent last -> above `bound` times the noise -> it changed
                          `---> distance to those of the look before -> median -> noise

The distance is the mean over the few places that differ most, minus the median over all places: something small counts,
and light that changes everywhere does not. The noise is measured for each camera, so one bound suits all cameras and
bundles. What moves all the time, such as leaves, is part of the noise after a minute. benchmarks/changes.py chose the
bound and the number of places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import InputError
from bottlenet.photo import Source
from bottlenet.records import is_number

BOUND = 2.5
SILENCE_S = 3600.0
PLACES = 3  # that differ most
LOOKS = 60  # of which the noise is the median
FLOOR = 0.25  # steps of a symbol: the least noise, of a picture that does not move at all

Symbols = NDArray[np.uint8]  # (C, H, W)


class Changes:
    """Compares a camera's frames by the symbols that the head makes. After `silence_s` any frame is worth sending.

    InputError: a bound or a silence that is not above 0.
    """

    def __init__(
        self, symbols: Callable[[Source], Symbols], *, bound: float = BOUND, silence_s: float = SILENCE_S
    ) -> None:
        if not is_number(bound) or not bound > 0:
            raise InputError(
                f"bound is {bound!r}; give a number above 0: how many times the noise a frame has to differ"
            )
        if not is_number(silence_s) or not silence_s > 0:
            raise InputError(
                f"silence_s is {silence_s!r}; give the seconds, above 0, after which a frame is sent in any case"
            )
        self.unchanged = 0  # frames that were not worth sending
        self._symbols, self._bound, self._silence_s = symbols, bound, silence_s
        self._noise: deque[float] = deque(maxlen=LOOKS)
        self._newest: tuple[Symbols, float] | None = None  # with its time
        self._sent: tuple[Symbols, float] | None = None

    def look(self, photo: Source, at_s: float) -> bool:
        """Tell whether a frame is worth sending. PhotoError: it can't be used."""
        symbols = self._symbols(photo)
        if self._newest is not None:
            self._noise.append(distance(symbols, self._newest[0]))
        self._newest = symbols, at_s
        if self._sent is None or at_s - self._sent[1] >= self._silence_s:
            return True
        noise = max(FLOOR, float(np.median(self._noise)))
        changed = distance(symbols, self._sent[0]) > self._bound * noise
        self.unchanged += not changed
        return changed

    def sent(self) -> None:
        """Compare with the newest from now on."""
        self._sent = self._newest


def distance(one: Symbols, other: Symbols) -> float:
    places = np.abs(one.astype(np.int16) - other).mean(axis=0).ravel()  # (H * W,) steps
    return float(np.sort(places)[-PLACES:].mean() - np.median(places))
