"""An answer arrives as it was sent, a refusal arrives as an error, anything else is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.errors import BusyError, FrameError, InputError, WireError
from bottlenet.wire.answer import MAX_LOAD, MAX_US, Answer, best_of_each, busy_bytes, parse_answer, refusal_bytes

SPEC = "".join((Path(__file__).parent.parent / "docs" / "wire.md").read_text(encoding="utf-8").split())
ANSWER = Answer(258, 41, 1843, ((285, 0.75), (281, 0.125)), queue_us=700, load=4.0)

quick = settings(max_examples=100, deadline=None)
answers = st.builds(
    Answer,
    sequence=st.integers(0, 65535),
    decode_us=st.integers(0, MAX_US),
    tail_us=st.integers(0, MAX_US),
    queue_us=st.integers(0, MAX_US),
    load=st.floats(1, MAX_LOAD),
    top=st.lists(st.tuples(st.integers(0, 65535), st.floats(0, 1)), max_size=255).map(
        lambda top: tuple(sorted(top, key=lambda choice: -choice[1]))
    ),
)


def test_golden_bytes() -> None:
    golden = "20 0102 0002bc 000029 000733 20 02 011d bfff 0119 2000".replace(" ", "")
    assert ANSWER.to_bytes().hex() == golden
    assert golden in SPEC
    answer = parse_answer(bytes.fromhex(golden))
    assert (answer.sequence, answer.queue_us, answer.decode_us, answer.tail_us) == (258, 700, 41, 1843)
    assert (answer.load, answer.server_us) == (4, 2584)
    assert [index for index, _ in answer.top] == [285, 281]
    assert [probability for _, probability in answer.top] == pytest.approx([0.75, 0.125], abs=1e-5)


def test_golden_refusal() -> None:
    golden = "21 0102 0e 6e6f20737563682062756e646c65".replace(" ", "")
    assert refusal_bytes(258, "no such bundle").hex() == golden
    assert golden in SPEC
    with pytest.raises(FrameError, match=r"^the server refused frame 258: no such bundle$"):
        parse_answer(bytes.fromhex(golden))


def test_golden_busy() -> None:
    golden = "22 0102 05dc 0c 6c696e652069732066756c6c".replace(" ", "")
    assert busy_bytes(258, 1.5, "line is full").hex() == golden
    assert golden in SPEC
    with pytest.raises(BusyError, match=r"^the server has no room for frame 258: line is full$") as busy:
        parse_answer(bytes.fromhex(golden))
    assert busy.value.retry_after_s == 1.5


@quick
@given(st.integers(0, 65535), st.floats(-1e6, 1e6), st.text(max_size=300))
def test_busy_says_when_never_earlier(sequence: int, retry_after_s: float, message: str) -> None:
    data = busy_bytes(sequence, retry_after_s, message)
    assert len(data) <= 6 + 255
    with pytest.raises(BusyError, match=f"^the server has no room for frame {sequence}: ") as caught:
        parse_answer(data)
    assert str(caught.value).isprintable()
    wanted = min(max(retry_after_s, 0), 65.535)
    assert wanted <= caught.value.retry_after_s <= wanted + 0.001 + 1e-9
    again = copy.copy(caught.value)
    assert (str(again), again.retry_after_s) == (str(caught.value), caught.value.retry_after_s)


@quick
@given(answers)
def test_an_answer_comes_back(answer: Answer) -> None:
    data = answer.to_bytes()
    assert len(data) == 14 + 4 * len(answer.top)
    back = parse_answer(data)
    assert (back.sequence, back.queue_us) == (answer.sequence, answer.queue_us)
    assert (back.decode_us, back.tail_us) == (answer.decode_us, answer.tail_us)
    assert abs(math.log2(back.load / answer.load)) <= 0.5 / 16 + 1e-9
    assert [index for index, _ in back.top] == [index for index, _ in answer.top]
    for (_, probability_hat), (_, probability) in zip(back.top, answer.top, strict=True):
        assert abs(probability_hat - probability) <= 0.5 / 65535 + 1e-12
    assert back.to_bytes() == data


@quick
@given(st.integers(0, 65535), st.text(max_size=300))
def test_any_message_makes_one_short_line(sequence: int, message: str) -> None:
    data = refusal_bytes(sequence, message)
    assert len(data) <= 4 + 255
    with pytest.raises(FrameError, match=f"^the server refused frame {sequence}: ") as caught:
        parse_answer(data)
    assert str(caught.value).isprintable()


def test_a_long_message_is_cut_between_characters() -> None:
    data = refusal_bytes(1, "é" * 200)
    assert data[4:].decode() == "é" * 127


def test_a_servers_control_characters_stay_out_of_the_terminal() -> None:
    text = "a\x1b[2Jb\nc\u202ed".encode()
    with pytest.raises(FrameError) as caught:
        parse_answer(bytes([0x21, 0, 0, len(text)]) + text)
    assert str(caught.value).endswith(": a [2Jb c d")


def test_every_truncation_and_trailing_byte_is_refused() -> None:
    for data in (ANSWER.to_bytes(), refusal_bytes(258, "no such bundle"), busy_bytes(258, 1.5, "line is full")):
        for wrong in [data[:length] for length in range(len(data))] + [data + b"\0"]:
            with pytest.raises(WireError) as caught:
                parse_answer(wrong)
            assert not isinstance(caught.value, FrameError)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", [0x00, 0x10, 0x24, 0x2F, 0x30, 0x7B])
def test_another_version_or_status_is_refused(first: int) -> None:
    with pytest.raises(WireError, match="no answer of version 2; is this a BottleNet server"):
        parse_answer(bytes([first]) + ANSWER.to_bytes()[1:])


def test_an_answer_that_is_not_best_first_is_refused() -> None:
    data = ANSWER.to_bytes()
    with pytest.raises(WireError, match="best first"):
        parse_answer(data[:14] + data[18:22] + data[14:18])


@quick
@given(st.binary(max_size=80))
def test_garbage_is_an_answer_or_an_error(data: bytes) -> None:
    try:
        again = parse_answer(data).to_bytes()
    except (WireError, BusyError) as error:
        again, said = None, str(error)
    assert again == data or said.isprintable()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("sequence", -1, "sequence is -1"),
        ("sequence", 65536, "0 to 65535"),
        ("decode_us", 2**24, "decode_us is 16777216"),
        ("tail_us", -1, "tail_us is -1"),
        ("queue_us", 2**24, "queue_us is 16777216; it can be 0 to 16777215"),
        ("load", 0.9, "load is 0.9; it can be 1 to 62757"),
        ("load", 1e6, "load is 1000000.0"),
        ("load", float("nan"), "load is nan"),
        ("top", ((0, 0.001),) * 256, "number of choices is 256"),
        ("top", ((65536, 0.5),), "class index is 65536"),
        ("top", ((1, 1.5),), "0 to 1, best first"),
        ("top", ((1, -0.5),), "0 to 1, best first"),
        ("top", ((1, float("nan")),), "0 to 1, best first"),
        ("top", ((1, 0.2), (2, 0.3)), "0.3 follows 0.2"),
    ],
)
def test_fields_that_an_answer_cannot_hold_are_refused(field: str, value: object, says: str) -> None:
    fields = {"sequence": 0, "decode_us": 0, "tail_us": 0, "top": (), field: value}
    with pytest.raises(InputError, match=says):
        Answer(**fields)  # type: ignore[arg-type]


def test_a_refusal_of_a_sequence_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="sequence is 65536"):
        refusal_bytes(65536, "")
    with pytest.raises(InputError, match="sequence is 65536"):
        busy_bytes(65536, 1, "")


def test_the_best_are_the_same_however_scores_lie_in_memory() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    assert best_of_each(np.asfortranarray(scores)) == best_of_each(scores)
