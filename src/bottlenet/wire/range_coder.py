"""A range coder for decisions with three outcomes, in integers alone: the same bytes on every machine.

    rows, outcomes --Encoder--> an interval of [0, 1) --payload--> Decoder --> outcomes, as far as they are certain

A decision's row says where its outcomes 0, 1, 2 lie in 0..2^24. The state is a window of 64 bits that moves on by
words of 32. `constriction` does the same arithmetic in compiled code, where it is installed; a self-test at import
decides whether it may. The Python classes here are the definition, and fall in where it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bottlenet.errors import PayloadError

PRECISION = 24
WHOLE = 2**PRECISION
WORD = 2**32
WINDOW_BYTES = 8
WINDOW = 2**64

Rows = NDArray[np.intp]
Outcomes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Intervals:
    """Where the outcomes of each row lie: 0 in [0, a), 1 in [a, b), 2 in [b, 2^24)."""

    cuts: NDArray[np.int64]  # (rows, 2): a and b, with 0 < a < b < 2^24

    @cached_property
    def lists(self) -> tuple[list[int], list[int]]:
        """All a, all b, as Python's integers, which a loop reads faster."""
        return self.cuts[:, 0].tolist(), self.cuts[:, 1].tolist()

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """(rows, 3): what makes constriction's categorical distribution have exactly these intervals.

        It puts the start of outcome i at i + floor(s * (sum of the weights before i)), s = (2^24 - 3) / sum of all.
        Each weight is the width less 1, so s is 1, every sum is an integer below 2^24, and nothing is rounded.
        """
        return np.diff(self.cuts, axis=1, prepend=0, append=WHOLE) - 1.0


@dataclass(frozen=True)
class Interval:
    """Where the payload lies after some decisions: low <= payload < low + width, as numbers of `size` bytes."""

    low: int
    width: int
    size: int

    def certain(self, count: int) -> bytes | None:
        """The first `count` bytes, if nothing that follows can change them."""
        shift = 8 * (self.size - count)
        if shift < 0 or self.low >> shift != self.low + self.width - 1 >> shift:
            return None
        return (self.low >> shift).to_bytes(count, "big")

    def shortest(self) -> bytes:
        """The fewest bytes that lie in the interval whatever follows them; the smallest such."""
        count = self.size - (self.width.bit_length() - 1) // 8
        while True:
            shift = 8 * (self.size - count)
            value = -(-self.low >> shift)
            if value + 1 << shift <= self.low + self.width:
                return value.to_bytes(count, "big")
            count += 1


class Encoder(Protocol):
    """Decisions -> interval."""

    def encode(self, rows: Rows, outcomes: Outcomes) -> None:
        """Both (n,): the row and the outcome, 0..2, of each decision."""

    def interval(self) -> Interval:
        """Of all decisions so far."""


class Decoder(Protocol):
    """Payload -> decisions."""

    def decode(self, rows: Rows) -> Outcomes:
        """The outcomes, fewer than `rows` where the payload was cut. PayloadError: no encoder wrote this."""

    def interval(self) -> Interval:
        """Of all decisions so far."""


class PythonEncoder:
    """The definition. `_low` and `_width` are the window; words that left it may still take a carry."""

    def __init__(self, intervals: Intervals) -> None:
        self._intervals = intervals
        self._words: list[int] = []
        self._low, self._width = 0, WINDOW - 1

    def encode(self, rows: Rows, outcomes: Outcomes) -> None:
        first, second = self._intervals.lists
        low, width = self._low, self._width
        for row, outcome in zip(rows.tolist(), outcomes.tolist(), strict=True):
            unit = width >> PRECISION
            left = (0, first[row], second[row])[outcome]
            width = unit * ((first[row], second[row], WHOLE)[outcome] - left)
            low += unit * left
            if width < WORD:
                self._shift_out(low >> 32)
                low, width = (low & WORD - 1) << 32, width << 32
        self._low, self._width = low, width

    def _shift_out(self, word: int) -> None:
        """A word, with the carry into those before it if it has 33 bits."""
        place = len(self._words)
        self._words.append(word & WORD - 1)
        while word >= WORD:
            place -= 1
            word = self._words[place] + 1
            self._words[place] = word & WORD - 1

    def interval(self) -> Interval:
        gone = b"".join(word.to_bytes(4, "big") for word in self._words)
        return Interval((int.from_bytes(gone, "big") << 64) + self._low, self._width, len(gone) + WINDOW_BYTES)


class PythonDecoder:
    """The definition. The payload's missing tail may be anything, and an outcome counts if it holds for all of them.

    `_point` is the window's content, with 0 for what is missing, less the interval's low end; `_unknown` is by how
    much what is missing could raise it.
    """

    def __init__(self, intervals: Intervals, payload: bytes, state: tuple[int, int, int] = (0, 0, WINDOW - 1)) -> None:
        self._intervals, self._payload = intervals, payload
        position, low, self._width = state  # words before the window; the window's interval
        self._next = 4 * position
        high, high_unknown = self._take()
        next_word, unknown = self._take()
        self._unknown = high_unknown << 32 | unknown
        self._point = ((high << 32 | next_word) - low) % WINDOW

    def _take(self) -> tuple[int, int]:
        """The next word, and what its missing bytes could add."""
        word = self._payload[self._next : self._next + 4]
        self._next += 4
        missing = 4 - len(word)
        return int.from_bytes(word, "big") << 8 * missing, (1 << 8 * missing) - 1

    def decode(self, rows: Rows) -> Outcomes:
        first, second = self._intervals.lists
        point, width, unknown = self._point, self._width, self._unknown
        outcomes: list[int] = []
        for row in rows.tolist():
            unit = width >> PRECISION
            if point >= unit << PRECISION:
                raise PayloadError(f"entropy payload of {len(self._payload)} bytes is none: it leads past the last row")
            left, right, outcome = 0, first[row], 0
            if point >= unit * right:
                left, right, outcome = right, second[row], 1
                if point >= unit * right:
                    left, right, outcome = right, WHOLE, 2
            if point + unknown >= unit * right:
                break
            outcomes.append(outcome)
            point -= unit * left
            width = unit * (right - left)
            if width < WORD:
                word, missing = self._take()
                point, width, unknown = point << 32 | word, width << 32, unknown << 32 | missing
        self._point, self._width, self._unknown = point, width, unknown
        return np.array(outcomes, np.int32)

    def interval(self) -> Interval:
        missing = max(0, self._next - len(self._payload))
        read = int.from_bytes(self._payload[: self._next], "big") << 8 * missing
        return Interval(read - self._point, self._width, self._next)


class FastEncoder:
    """`PythonEncoder` by constriction."""

    def __init__(self, intervals: Intervals) -> None:
        self._weights = intervals.weights
        self._encoder: Any = ACCELERATOR.stream.queue.RangeEncoder()  # type: ignore[union-attr]

    def encode(self, rows: Rows, outcomes: Outcomes) -> None:
        self.encode_weighted(self._weights.take(rows, axis=0), outcomes)

    def encode_weighted(self, weights: NDArray[np.float64], outcomes: Outcomes) -> None:
        self._encoder.encode(outcomes, CATEGORICAL, weights)

    @property
    def state(self) -> tuple[int, int, int]:
        """Words before the window, and the window's low end (mod 2^64) and width."""
        position, (low, width) = self._encoder.pos()
        return position, low, width

    def interval(self) -> Interval:
        position, low, width = self.state
        size = 4 * position + WINDOW_BYTES
        # It does not tell the words before the window, as they may await a carry, but a point of the interval.
        sealed = self._encoder.get_compressed().astype(">u4").tobytes()
        point = int.from_bytes(sealed[:size].ljust(size, b"\0"), "big")
        return Interval(point - (point - low) % WINDOW, width, size)


class FastDecoder:
    """`PythonDecoder` by constriction as long as the window lies wholly in the payload, then by `PythonDecoder`.

    constriction's decoder does not tell its state. An encoder that is fed what was decoded has the same one.
    """

    def __init__(self, intervals: Intervals, payload: bytes) -> None:
        self._intervals, self._payload = intervals, payload
        words = np.frombuffer(payload + bytes(-len(payload) % 4), ">u4").astype(np.uint32)
        self._decoder: Any = ACCELERATOR.stream.queue.RangeDecoder(words)  # type: ignore[union-attr]
        self._mirror = FastEncoder(intervals)
        self._state = self._mirror.state
        self._slow: PythonDecoder | None = None
        if len(payload) < WINDOW_BYTES:
            self._slow = PythonDecoder(intervals, payload)

    def decode(self, rows: Rows) -> Outcomes:
        if self._slow is None:
            weights = self._intervals.weights.take(rows, axis=0)
            try:
                outcomes: Outcomes = self._decoder.decode(CATEGORICAL, weights)
            except AssertionError:  # damaged, or only cut: the definition knows
                self._slow = PythonDecoder(self._intervals, self._payload, self._state)
                return self._slow.decode(rows)
            self._mirror.encode_weighted(weights, outcomes)
            state = self._mirror.state
            if 4 * state[0] + WINDOW_BYTES <= len(self._payload):
                self._state = state
                return outcomes
            self._slow = PythonDecoder(self._intervals, self._payload, self._state)
        return self._slow.decode(rows)

    def interval(self) -> Interval:
        return self._mirror.interval() if self._slow is None else self._slow.interval()


def load_accelerator() -> tuple[ModuleType | None, Any]:
    """constriction and its categorical distribution, if it is installed and gives our bytes; else None twice."""
    try:
        import constriction
    except ImportError:
        return None, None
    return constriction, constriction.stream.model.Categorical(perfect=False)


def agrees() -> bool:
    """Whether the accelerator gives what the definition gives, on rows of many kinds and on the extremes."""
    number = np.arange(200)
    first = 1 + number * 7919 % 65000
    second = first + 1 + number * 104729 % (2**16 - 1 - first)
    edges = [(256, 512), (256, WHOLE - 256), (WHOLE - 512, WHOLE - 256), (256, WHOLE - 1), (WHOLE - 256, WHOLE - 1)]
    intervals = Intervals(np.concatenate([256 * np.stack([first, second], axis=1), edges]))
    rows = np.arange(1000) * 13 % len(intervals.cuts)
    outcomes = (np.arange(1000) * 7 % 11 % 3).astype(np.int32)
    ours, theirs = PythonEncoder(intervals), FastEncoder(intervals)
    for encoder in (ours, theirs):
        encoder.encode(rows, outcomes)
    back = FastDecoder(intervals, ours.interval().shortest()).decode(rows[:500])
    return ours.interval() == theirs.interval() and np.array_equal(back, outcomes[:500])


ACCELERATOR, CATEGORICAL = load_accelerator()
if ACCELERATOR is not None and not agrees():
    ACCELERATOR = None  # a version that counts otherwise


def make_encoder(intervals: Intervals) -> Encoder:
    """The fastest there is here; the bytes are the same."""
    return PythonEncoder(intervals) if ACCELERATOR is None else FastEncoder(intervals)


def make_decoder(intervals: Intervals, payload: bytes) -> Decoder:
    """The fastest there is here; the outcomes are the same."""
    return PythonDecoder(intervals, payload) if ACCELERATOR is None else FastDecoder(intervals, payload)
