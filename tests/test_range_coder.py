"""The range coder: exact, the shortest, certain about what it says, and the same with and without its accelerator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import PayloadError
from bottlenet.wire import range_coder
from bottlenet.wire.range_coder import (
    FastDecoder,
    FastEncoder,
    Interval,
    Intervals,
    PythonDecoder,
    PythonEncoder,
    agrees,
    load_accelerator,
    make_decoder,
    make_encoder,
)

SPEC = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())
WHOLE = 2**24
CUTS = [(1 << 8, WHOLE - 256), (256, 512), (WHOLE - 512, WHOLE - 256), (WHOLE // 3, WHOLE // 2), (4096, WHOLE - 1)]
INTERVALS = Intervals(np.array(CUTS))
ENCODERS = [PythonEncoder, FastEncoder]
DECODERS = [PythonDecoder, FastDecoder]

quick = settings(max_examples=150, deadline=None)
messages = st.lists(st.tuples(st.integers(0, len(CUTS) - 1), st.integers(0, 2)), max_size=60)


def arrays(message: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    rows, outcomes = np.array(message, int).reshape(-1, 2).T
    return rows.astype(np.intp), outcomes.astype(np.int32)


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
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_is_exact(kind: type, message: list[tuple[int, int]]) -> None:
    encoder = kind(INTERVALS)
    encoder.encode(*arrays(message))
    low, width, bits = exact_intervals(message)[-1]
    assert encoder.interval() == Interval(low, width, bits // 8)


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoding_in_parts_is_the_same(kind: type) -> None:
    rows, outcomes = arrays([(number % 5, number * 7 % 3) for number in range(300)])
    whole, parts = kind(INTERVALS), kind(INTERVALS)
    whole.encode(rows, outcomes)
    for start in range(0, 300, 7):
        parts.encode(rows[start : start + 7], outcomes[start : start + 7])
    assert whole.interval() == parts.interval()


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_carry_runs_through_many_words(kind: type) -> None:
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
    encoder = kind(INTERVALS)
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
def test_certain_bytes_are_those_of_every_end(message: list[tuple[int, int]], count: int) -> None:
    low, width, bits = exact_intervals(message)[-1]
    interval = Interval(low, width, bits // 8)
    ends = {(end << 512 >> bits + 512 - 8 * count).to_bytes(count, "big") for end in (low, low + width - 1)}
    assert interval.certain(count) == (ends.pop() if len(ends) == 1 and count <= bits // 8 else None)


@quick
@given(messages, st.binary(max_size=3))
@pytest.mark.parametrize("kind", DECODERS)
def test_decoder_says_exactly_what_is_certain(kind: type, message: list[tuple[int, int]], more: bytes) -> None:
    """At every cut: as many outcomes as there are intervals that hold all that the payload may go on with."""
    intervals = exact_intervals(message)
    low, width, bits = intervals[-1]
    payload = Interval(low, width, bits // 8).shortest() + more
    rows, outcomes = arrays(message)
    for length in range(len(payload) + 1):
        certain = sum(inside(payload[:length], *each) for each in intervals[1:])
        decoder = kind(INTERVALS, payload[:length])
        np.testing.assert_array_equal(decoder.decode(rows), outcomes[:certain])
        assert decoder.interval() == Interval(*intervals[certain][:2], intervals[certain][2] // 8)
    assert certain == len(message)


@quick
@given(st.binary(max_size=80), st.lists(st.integers(0, len(CUTS) - 1), max_size=80), st.integers(1, 9))
def test_garbage_is_the_same_to_both_decoders(payload: bytes, rows: list[int], step: int) -> None:
    results = []
    for kind in DECODERS:
        decoder = kind(INTERVALS, payload)
        found: list[object] = []
        try:
            for start in range(0, len(rows), step):
                found.append(decoder.decode(np.array(rows[start : start + step], np.intp)).tolist())
                if len(found[-1]) < len(rows[start : start + step]):  # type: ignore[arg-type]
                    break
        except PayloadError as error:
            found.append(str(error))
        results.append((found, decoder.interval()))
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", DECODERS)
def test_what_no_encoder_writes_is_refused(kind: type) -> None:
    """2^64 - 1 is above the first interval, which has one number less than the window."""
    with pytest.raises(PayloadError, match="leads past the last row"):
        kind(INTERVALS, b"\xff" * 12).decode(np.array([0], np.intp))


@pytest.mark.parametrize("kind", ENCODERS)
def test_golden_bytes(kind: type) -> None:
    encoder = kind(INTERVALS)
    encoder.encode(*arrays([(3, number % 3) for number in range(60)]))
    payload = encoder.interval().shortest()
    assert payload.hex() == GOLDEN
    assert GOLDEN in SPEC


GOLDEN = "249248f266a5e6a131558da428"


class TestSeam:
    def test_the_accelerator_is_taken(self) -> None:
        """constriction is in the extra `dev`, so the tests run with it."""
        assert agrees()
        assert isinstance(make_encoder(INTERVALS), FastEncoder)
        assert isinstance(make_decoder(INTERVALS, b"12345678"), FastDecoder)

    def test_without_it_python_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "constriction", None)
        assert load_accelerator() == (None, None)
        monkeypatch.setattr(range_coder, "ACCELERATOR", None)
        assert isinstance(make_encoder(INTERVALS), PythonEncoder)
        assert isinstance(make_decoder(INTERVALS, b"12345678"), PythonDecoder)

    def test_a_version_that_counts_otherwise_shows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Off(FastEncoder):
            def __init__(self, intervals: Intervals) -> None:
                super().__init__(Intervals(intervals.cuts + [1, 0]))

        monkeypatch.setattr(range_coder, "FastEncoder", Off)
        assert not agrees()


def test_weights_give_constriction_our_integers() -> None:
    """Each outcome of 2,000 distributions alone: the first interval must begin and end where ours does."""
    generator = np.random.default_rng(0)
    cuts = np.sort(generator.choice(np.arange(1, 2**16), (2000, 2)), axis=1)
    cuts = 256 * cuts[cuts[:, 0] < cuts[:, 1]]
    cuts[::3, 1] = WHOLE - 1
    intervals = Intervals(cuts)
    build: Callable[[Intervals], FastEncoder] = FastEncoder
    for row in range(0, len(cuts), 7):
        for outcome in range(3):
            encoder = build(intervals)
            encoder.encode(np.array([row], np.intp), np.array([outcome], np.int32))
            unit, edges = (2**64 - 1) // WHOLE, [0, *cuts[row].tolist(), WHOLE]
            interval = encoder.interval()
            assert interval.low >> 8 * interval.size - 64 == unit * edges[outcome]
            assert interval.width >> 8 * interval.size - 64 == unit * (edges[outcome + 1] - edges[outcome])
