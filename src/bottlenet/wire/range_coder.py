"""A range coder for decisions with three outcomes, in integers alone: the same bytes on every machine.

    cuts, outcomes --RangeEncoder--> an interval of [0, 1) --payload--> RangeDecoder --> outcomes, as far as certain

The cuts a, b of a decision say where its outcomes lie in 0..2^24: 0 in [0, a), 1 in [a, b), 2 in [b, 2^24). The state
is a window of 64 bits that moves on by words of 32. entropy.c does the same arithmetic in compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import PayloadError

PRECISION = 24
WHOLE = 2**PRECISION
WORD = 2**32
WINDOW_BYTES = 8
WINDOW = 2**64

Cuts = NDArray[np.uint32]
Outcomes = NDArray[np.intp]


@dataclass(frozen=True)
class Interval:
    """Where the payload lies after some decisions: low <= payload < low + width, as numbers of `size` bytes."""

    low: int
    width: int
    size: int

    def shortest(self) -> bytes:
        """Return the fewest bytes that lie in the interval whatever follows them, and the smallest such."""
        count = self.size - (self.width.bit_length() - 1) // 8
        while True:
            shift = 8 * (self.size - count)
            value = -(-self.low >> shift)
            if value + 1 << shift <= self.low + self.width:
                return value.to_bytes(count, "big")
            count += 1

    @classmethod
    def behind(cls, words: bytes, low: int, width: int) -> Interval:
        """Join the words that left an encoder's window with the window itself."""
        return cls((int.from_bytes(words, "big") << 64) + low, width, len(words) + WINDOW_BYTES)

    @classmethod
    def before(cls, payload: bytes, read: int, point: int, width: int) -> Interval:
        """Find the interval of a decoder that has taken `read` bytes, of which some may be missing in the payload."""
        missing = max(0, read - len(payload))
        return cls((int.from_bytes(payload[:read], "big") << 8 * missing) - point, width, read)


def leads_past(payload: bytes) -> PayloadError:
    """Make the error for a payload that lies outside all intervals."""
    return PayloadError(f"entropy payload of {len(payload)} bytes is none: it leads past the last row")


def bad_flag(payload: bytes, pass_number: int) -> PayloadError:
    """Make the error for a payload with an outcome that no encoder sends."""
    return PayloadError(f"entropy payload of {len(payload)} bytes has a reserved flag in pass {pass_number}")


class RangeEncoder:
    """Encoder of decisions into an interval, whose window is `_low` and `_width`, until `budget` bytes are settled."""

    def __init__(self, budget: int | None = None) -> None:
        self._budget = budget
        self._words: list[int] = []
        self._low, self._width = 0, WINDOW - 1

    def encode(self, cuts: Cuts, outcomes: Outcomes) -> None:
        """Encode decisions: cuts (n, 2), 0 < a < b < 2^24, and outcomes (n,), 0..2."""
        count = len(outcomes)
        edges = np.zeros((count, 4), np.int64)
        edges[:, 1:3], edges[:, 3] = cuts, WHOLE
        places = np.arange(0, 4 * count, 4) + outcomes
        lefts = edges.take(places)
        low, width = self._low, self._width
        for left, share in zip(lefts.tolist(), (edges.take(places + 1) - lefts).tolist(), strict=True):
            unit = width >> PRECISION
            low += unit * left
            width = unit * share
            if width < WORD:
                self._shift_out(low >> 32)
                low, width = (low & WORD - 1) << 32, width << 32
                if self.settled:
                    break
        self._low, self._width = low, width

    def _shift_out(self, word: int) -> None:
        """Append a word, with the carry into those before it if it has 33 bits."""
        place = len(self._words)
        self._words.append(word & WORD - 1)
        while word >= WORD:
            place -= 1
            word = self._words[place] + 1
            self._words[place] = word & WORD - 1

    @property
    def settled(self) -> bool:
        """True if no carry can change the bytes of the budget any more, because a word behind them takes it."""
        return self._budget is not None and any(word < WORD - 1 for word in self._words[-(-self._budget // 4) :])

    def interval(self) -> Interval:
        words = b"".join(word.to_bytes(4, "big") for word in self._words)
        return Interval.behind(words, self._low, self._width)


class RangeDecoder:
    """Decoder of a payload whose missing tail can be anything; `_unknown` is what that could add to `_point`."""

    def __init__(self, payload: bytes) -> None:
        self._payload, self._next, self._width = payload, 0, WINDOW - 1
        high, high_unknown = self._take()
        low, low_unknown = self._take()
        self._point, self._unknown = high << 32 | low, high_unknown << 32 | low_unknown

    def _take(self) -> tuple[int, int]:
        """Read the next word, and what its missing bytes could add."""
        word = self._payload[self._next : self._next + 4]
        self._next += 4
        missing = 4 - len(word)
        return int.from_bytes(word, "big") << 8 * missing, (1 << 8 * missing) - 1

    def decode(self, cuts: Sequence[Sequence[int]]) -> list[int]:
        """Decode decisions, fewer where the payload ends before. PayloadError: no encoder wrote this."""
        point, width, unknown = self._point, self._width, self._unknown
        outcomes: list[int] = []
        for first, second in cuts:
            unit = width >> PRECISION
            if point >= unit << PRECISION:
                raise leads_past(self._payload)
            left, right, outcome = 0, first, 0
            if point >= unit * first:
                left, right, outcome = first, second, 1
                if point >= unit * second:
                    left, right, outcome = second, WHOLE, 2
            if point + unknown >= unit * right:
                break
            outcomes.append(outcome)
            point -= unit * left
            width = unit * (right - left)
            if width < WORD:
                word, missing = self._take()
                point, width, unknown = point << 32 | word, width << 32, unknown << 32 | missing
        self._point, self._width, self._unknown = point, width, unknown
        return outcomes

    def interval(self) -> Interval:
        return Interval.before(self._payload, self._next, self._point, self._width)
