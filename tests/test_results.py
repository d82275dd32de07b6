"""What an answer of another task says arrives as it was sent; anything else is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import BusyError, InputError, WireError
from bottlenet.wire.answer import (
    MAX_ANSWER_BYTES,
    MAX_MAP_PLACES,
    Answer,
    Box,
    Boxes,
    Classes,
    ClassMap,
    Result,
    parse_answer,
    parse_result,
)

SPEC = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())
PLACES = np.zeros((4, 6), np.uint8)
PLACES[1:3, 2:5] = 15
PLACES[3] = 2
GOLDEN = {
    "23 0102 0002bc 000029 000733 20 01 02 011d bfff 0119 2000": Classes(((285, 0.75), (281, 0.125))),
    "23 0102 0002bc 000029 000733 20 02 0004 0006 78da636080007e7e7e288b89e9f3e7cf4c000b5e030d": ClassMap.of(PLACES),
    "23 0102 0002bc 000029 000733 20 03 0001 0012 bfff 4000 2000 8000 ffff": Boxes(
        (Box(18, 0.75, 0.25, 0.125, 0.5, 1.0),)
    ),
}
quick = settings(max_examples=60, deadline=None)
shares = st.floats(0, 1)


def ordered(pair: tuple[float, float]) -> tuple[float, float]:
    return min(pair), max(pair)


@st.composite
def boxes(draw: st.DrawFn) -> Boxes:
    rows = draw(
        st.lists(st.tuples(st.integers(0, 65535), shares, st.tuples(shares, shares), st.tuples(shares, shares)))
    )
    made = [
        Box(index, score, ordered(x)[0], ordered(y)[0], ordered(x)[1], ordered(y)[1]) for index, score, x, y in rows
    ]
    return Boxes(tuple(sorted(made, key=lambda box: -box.score)))


def answer(result: Result) -> Answer:
    return Answer(258, 41, 1843, (), 700, 4.0, result)


@pytest.mark.parametrize("golden", GOLDEN)
def test_golden_bytes(golden: str) -> None:
    data, result = bytes.fromhex(golden), GOLDEN[golden]
    assert golden.replace(" ", "") in SPEC
    back = parse_answer(data)
    assert (back.sequence, back.queue_us, back.decode_us, back.tail_us, back.load, back.top) == (
        258,
        700,
        41,
        1843,
        4,
        (),
    )
    if isinstance(result, ClassMap):
        assert back.result == result  # zlib's encoders may differ, so the bytes needn't be these
    else:
        assert answer(result).to_bytes() == data


@quick
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_map_comes_back(rows: int, columns: int, seed: int) -> None:
    places = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    back = parse_answer(answer(ClassMap.of(places)).to_bytes()).result
    assert isinstance(back, ClassMap)
    assert np.array_equal(back.places, places)


@quick
@given(boxes())
def test_boxes_come_back(sent: Boxes) -> None:
    data = answer(sent).to_bytes()
    assert len(data) == 14 + 2 + 12 * len(sent.boxes)
    back = parse_answer(data)
    assert back.to_bytes() == data
    assert isinstance(back.result, Boxes)
    for one, other in zip(back.result.boxes, sent.boxes, strict=True):
        assert one.class_index == other.class_index
        assert one.right == pytest.approx(other.right, abs=1 / 65535)


def test_the_largest_map_is_within_the_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024), dtype=np.uint8)
    assert MAX_MAP_PLACES < len(answer(ClassMap.of(noise)).to_bytes()) <= MAX_ANSWER_BYTES


def test_every_truncation_and_trailing_byte_is_refused() -> None:
    for golden in GOLDEN:
        data = bytes.fromhex(golden)
        for wrong in [data[:length] for length in range(len(data))] + [data + b"\0"]:
            with pytest.raises(WireError) as caught:
                parse_answer(wrong)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "columns", "data"),
    [
        (4, 6, zlib.compress(bytes(25))),  # more than it says
        (4, 6, zlib.compress(bytes(23))),
        (4, 6, zlib.compress(bytes(2**24), 9)),  # a bomb
        (4, 6, zlib.compress(bytes(24)) + b"x"),
        (4, 6, b"no zlib"),
        (0, 6, zlib.compress(b"")),
        (65535, 65535, zlib.compress(bytes(24))),
    ],
)
def test_a_map_that_is_none(rows: int, columns: int, data: bytes) -> None:
    with pytest.raises(WireError, match="the server sent this"):
        parse_result(2, struct.pack("!HH", rows, columns) + data)


def test_an_unknown_kind() -> None:
    with pytest.raises(WireError, match="an answer of kind 4; this side knows 1, 2, 3"):
        parse_result(4, b"")


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("!H6H", 1, 0, 0, 2, 0, 1, 0),  # left behind right
        struct.pack("!H12H", 2, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0),  # not best first
        struct.pack("!H", 1001) + bytes(12 * 1001),
    ],
)
def test_boxes_that_are_none(body: bytes) -> None:
    with pytest.raises(WireError, match="the server sent this"):
        parse_result(3, body)


@quick
@given(st.integers(0, 5), st.binary(max_size=60))
def test_garbage_is_a_result_or_an_error(kind: int, body: bytes) -> None:
    try:
        result = parse_answer(b"\x23" + bytes(11) + bytes([0, kind]) + body).result
    except (WireError, BusyError) as error:
        assert str(error).isprintable()
    else:
        assert result is not None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Classes(((0, 0.1),) * 256), "256 classes"),
        (lambda: Classes(((0, 0.1), (1, 0.2))), "0.2 follows 0.1"),
        (lambda: Classes(((65536, 0.1),)), "class index is 65536"),
        (lambda: ClassMap(2, 2, b"abc"), "3 places for a map of 2 x 2"),
        (lambda: ClassMap(1025, 1024, bytes(1025 * 1024)), "a map of 1025 x 1024"),
        (lambda: Boxes((Box(0, 0.5, 0.5, 0, 0.4, 1),)), "leaves the square"),
        (lambda: Boxes((Box(0, float("nan"), 0, 0, 1, 1),)), "0 to 1, best first"),
        (lambda: Boxes((Box(0, 0.1, 0, 0, 1, 1),) * 1001), "1001 boxes"),
    ],
)
def test_what_can_not_travel(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()
