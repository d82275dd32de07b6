"""How busy a server says it is, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlenet.cloud.batcher import Batcher, Load
from bottlenet.errors import BottleNetError, PayloadError
from bottlenet.wire.answer import MAX_LOAD, Answer
from bottlenet.wire.frame import Frame

WORK_S = 0.01


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Line:
    """Frames that take WORK_S each, one after the other."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.load = Load(self.clock)

    def batch(self, waited_s: Sequence[float], work_s: float, *, good: bool = True) -> None:
        self.load.begin()
        self.clock.now += work_s
        self.load.done(waited_s, work_s, good=good)

    def crowded(self) -> None:
        """Four are always there: each waits for three."""
        for _ in range(500):
            self.batch([3 * WORK_S], WORK_S)

    def alone(self, seconds: float, slower: float = 1.0) -> None:
        ends = self.clock.now + seconds
        while self.clock.now < ends:
            self.batch([0.0], WORK_S * slower)
            self.clock.now += 0.05


def test_an_idle_server_is_not_busy() -> None:
    line = Line()
    assert line.load.now == 1
    line.alone(5)
    assert line.load.now == pytest.approx(1)


def test_waiting_is_load() -> None:
    line = Line()
    line.alone(5)
    line.crowded()
    assert line.load.now == pytest.approx(4, rel=0.02)


def test_a_batch_is_load_for_each_in_it() -> None:
    line = Line()
    line.alone(5)
    for _ in range(100):
        line.batch([0.0] * 4, 4 * WORK_S)
    assert line.load.now == pytest.approx(4, rel=0.02)


def test_others_on_the_machine_are_load() -> None:
    line = Line()
    line.alone(5)
    line.alone(5, slower=4)
    assert line.load.now == pytest.approx(4, rel=0.25)


def test_it_is_forgotten() -> None:
    line = Line()
    line.alone(5)
    line.crowded()
    line.clock.now += 1
    assert line.load.now == pytest.approx(1 + 3 / 2.718, rel=0.05)
    line.clock.now += 10
    assert line.load.now == pytest.approx(1, abs=0.01)


def test_it_is_not_forgotten_while_a_batch_is_at_work() -> None:
    line = Line()
    line.alone(5)
    line.crowded()
    line.load.begin()
    line.clock.now += 10
    assert line.load.now == pytest.approx(4, rel=0.02)


def test_a_first_frame_that_is_slow_is_soon_forgotten() -> None:
    line = Line()
    line.batch([0.0], 100 * WORK_S)
    line.alone(3)
    line.crowded()
    assert line.load.now == pytest.approx(4, rel=0.05)


def test_what_failed_tells_nothing() -> None:
    line = Line()
    line.alone(5)
    for _ in range(100):
        line.batch([0.0], WORK_S / 1000, good=False)
    line.alone(5)
    assert line.load.now == pytest.approx(1, abs=0.01)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.lists(st.floats(0, 1e4), min_size=1, max_size=4), st.floats(0, 1e4), st.floats(0, 1e4))))
def test_it_is_always_what_an_answer_can_hold(batches: list[tuple[list[float], float, float]]) -> None:
    line = Line()
    for waited_s, work_s, pause_s in batches:
        line.batch(waited_s, work_s)
        assert 1 <= line.load.now <= MAX_LOAD
        Answer(0, 0, 0, (), load=line.load.now).to_bytes()
        line.clock.now += pause_s


def test_answers_say_how_long_they_waited_and_how_busy_it_is() -> None:
    def work(frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        time.sleep(0.05)
        if frames[0].sequence == 99:
            return [PayloadError("bad")]
        return [Answer(one.sequence, 1, 2, ((0, 1.0),)) for one in frames]

    async def main() -> list[Answer]:
        batcher = Batcher(work, max_batch=1)
        alone = await batcher.answer(Frame(0, 0, b"tag", 0, b""))
        together = [batcher.answer(Frame(0, 0, b"tag", number, b"")) for number in range(1, 5)]
        answers = [alone, *await asyncio.gather(*together)]
        assert batcher.load > 1.2
        with pytest.raises(PayloadError):
            await batcher.answer(Frame(0, 0, b"tag", 99, b""))
        await batcher.close()
        return answers

    alone, *together = asyncio.run(main())
    assert alone.queue_us < together[-1].queue_us
    assert alone.load < together[-1].load
    assert [answer.sequence for answer in together] == [1, 2, 3, 4]
    for ahead, answer in enumerate(together):
        assert answer.queue_us >= ahead * 50_000 - 5_000
        assert answer.decode_us == 1
        assert answer.tail_us == 2
    assert together[-1].load > 1.2
