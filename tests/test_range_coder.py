"""The range coder: exact, the shortest, and certain about what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import PayloadError
from bottlenet.wire.range_coder import Interval, RangeDecoder, RangeEncoder

SPEC = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())
WHOLE = 2**24
CUTS = [(1 << 8, WHOLE - 256), (256, 512), (WHOLE - 512, WHOLE - 256), (WHOLE // 3, WHOLE // 2), (4096, WHOLE - 1)]

quick = settings(max_examples=150, deadline=None)
messages = st.lists(st.tuples(st.integers(0, len(CUTS) - 1), st.integers(0, 2)), max_size=60)


def arrays(message: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Cuts and outcomes."""
    rows, outcomes = np.array(message, np.intp).reshape(-1, 2).T
    return np.array(CUTS, np.uint32)[rows], outcomes


def exact_intervals(message: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(low, width, bits) after 0, 1, ... decisions: docs/wire.md, with integers of any size and so without carries."""
    low, width, bits = 0, 2**64 - 1, 64
    found = [(low, width, bits)]
    for row, outcome in message:
        edges = [0, *CUTS[row], WHOLE]
        unit = width // WHOLE
        low += unit * edges[outcome]
        width = unit * (edges[outcome + 1] - edges[outcome])
        if width < 2**32:
            low, width, bits = low << 32, width << 32, bits + 32
        found.append((low, width, bits))
    return found


def inside(data: bytes, low: int, width: int, bits: int) -> bool:
    """Whether every number that begins with `data` lies in the interval."""
    shift = 8 * len(data)
    value, bits = int.from_bytes(data, "big"), bits
    # compare value / 2^shift and (value + 1) / 2^shift with low / 2^bits and (low + width) / 2^bits
    return value << bits >= low << shift and value + 1 << bits <= low + width << shift


@quick
@given(messages)
def test_encoder_is_exact(message: list[tuple[int, int]]) -> None:
    encoder = RangeEncoder()
    encoder.encode(*arrays(message))
    low, width, bits = exact_intervals(message)[-1]
    assert encoder.interval() == Interval(low, width, bits // 8)


def test_encoding_in_parts_is_the_same() -> None:
    cuts, outcomes = arrays([(number % 5, number * 7 % 3) for number in range(300)])
    whole, parts, budgeted = RangeEncoder(), RangeEncoder(), RangeEncoder(20)
    whole.encode(cuts, outcomes)
    for start in range(0, 300, 7):
        parts.encode(cuts[start : start + 7], outcomes[start : start + 7])
    assert whole.interval() == parts.interval()
    budgeted.encode(cuts, outcomes)
    assert budgeted.settled
    assert budgeted.interval().size < 40
    assert budgeted.interval().shortest()[:20] == whole.interval().shortest()[:20]


def test_a_carry_runs_through_many_words() -> None:
    """Stay just below 1/2 for long, so that the words are 7f ff ff ... ff, then step over it."""
    message, row = [(4, 1)], 3
    for _ in range(250):  # the outcome whose interval holds one half
        low, width, bits = exact_intervals(message)[-1]
        message.append((row, sum(low + width // WHOLE * cut <= 1 << bits - 1 for cut in CUTS[row])))
    low, width, bits = exact_intervals(message)[-1]
    assert low < 1 << bits - 1 < low + width
    while low < 1 << bits - 1:
        message.append((row, 2))
        low, width, bits = exact_intervals(message)[-1]
    encoder = RangeEncoder()
    encoder.encode(*arrays(message))
    assert encoder.interval() == Interval(low, width, bits // 8)


@quick
@given(messages)
def test_shortest_is_the_shortest(message: list[tuple[int, int]]) -> None:
    low, width, bits = exact_intervals(message)[-1]
    payload = Interval(low, width, bits // 8).shortest()
    assert payload
    assert inside(payload, low, width, bits)
    shorter = len(payload) - 1
    first = (low << 8 * shorter) >> bits  # the only candidates are the numbers around the low end
    for value in range(first, min(first + 3, 256**shorter)):
        assert not inside(value.to_bytes(shorter, "big"), low, width, bits)


@quick
@given(messages, st.integers(0, 40))
def test_what_is_settled_does_not_change(message: list[tuple[int, int]], count: int) -> None:
    low, width, bits = exact_intervals(message)[-1]
    encoder = RangeEncoder(count)
    encoder.encode(*arrays(message))
    ends = {(end << 512 >> bits + 512 - 8 * count).to_bytes(count, "big") for end in (low, low + width - 1)}
    assert not encoder.settled or ends == {encoder.interval().shortest()[:count]}


@quick
@given(messages, st.binary(max_size=3))
def test_decoder_says_exactly_what_is_certain(message: list[tuple[int, int]], more: bytes) -> None:
    """At every cut: as many outcomes as there are intervals that hold all that the payload may go on with."""
    intervals = exact_intervals(message)
    low, width, bits = intervals[-1]
    payload = Interval(low, width, bits // 8).shortest() + more
    cuts, outcomes = arrays(message)
    for length in range(len(payload) + 1):
        certain = sum(inside(payload[:length], *each) for each in intervals[1:])
        decoder = RangeDecoder(payload[:length])
        assert decoder.decode(cuts.tolist()) == outcomes[:certain].tolist()
        assert decoder.interval() == Interval(*intervals[certain][:2], intervals[certain][2] // 8)
    assert certain == len(message)


def test_what_no_encoder_writes_is_refused() -> None:
    """2^64 - 1 is above the first interval, which has one number less than the window."""
    with pytest.raises(PayloadError, match="leads past the last row"):
        RangeDecoder(b"\xff" * 12).decode([CUTS[0]])


def test_golden_bytes() -> None:
    encoder = RangeEncoder()
    encoder.encode(*arrays([(3, number % 3) for number in range(60)]))
    payload = encoder.interval().shortest()
    assert payload.hex() == GOLDEN
    assert GOLDEN in SPEC


GOLDEN = "249248f266a5e6a131558da428"
