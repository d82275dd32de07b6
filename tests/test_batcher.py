from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from bottlenet.cloud import Batcher
from bottlenet.errors import BottleNetError, BusyError, InputError, PayloadError
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame


def frame(sequence: int) -> Frame:
    return Frame(0, 0, b"tag", sequence, b"")


class Work:
    """Answers with the frame's number; can be held up, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()

    def __call__(self, frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        self.batches.append([one.sequence for one in frames])
        self.threads.add(threading.get_ident())
        self.busy.set()
        assert self.go.wait(30)
        return [
            PayloadError("bad") if one.sequence % 10 == 9 else Answer(one.sequence, 1, 1, ((0, 1.0),)) for one in frames
        ]


@pytest.fixture
def work() -> Work:
    return Work()


async def until_busy(work: Work) -> None:
    assert await asyncio.to_thread(work.busy.wait, 5)


def test_one_alone_does_not_wait_for_others(work: Work) -> None:
    async def main() -> None:
        batcher = Batcher(work)
        assert (await batcher.answer(frame(3))).sequence == 3
        assert (await batcher.answer(frame(4))).sequence == 4
        await batcher.close()

    asyncio.run(main())
    assert work.batches == [[3], [4]]


def test_what_waits_is_taken_together_in_one_thread(work: Work) -> None:
    async def main() -> None:
        batcher = Batcher(work, max_batch=4)
        work.go.clear()
        tasks = [asyncio.create_task(batcher.answer(frame(0)))]
        await until_busy(work)
        tasks += [asyncio.create_task(batcher.answer(frame(number))) for number in range(1, 8)]
        await asyncio.sleep(0)
        assert batcher.waiting == 7
        work.go.set()
        answers = await asyncio.gather(*tasks)
        assert [answer.sequence for answer in answers] == list(range(8))
        assert batcher.waiting == 0
        await batcher.close()

    asyncio.run(main())
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
    assert len(work.threads) == 1
    assert threading.get_ident() not in work.threads


def test_an_error_is_for_its_frame_only(work: Work) -> None:
    async def main() -> list[object]:
        batcher = Batcher(work)
        results = await asyncio.gather(
            *(batcher.answer(frame(number)) for number in (8, 9, 10)), return_exceptions=True
        )
        await batcher.close()
        return results

    first, second, third = asyncio.run(main())
    assert isinstance(first, Answer)
    assert isinstance(second, PayloadError)
    assert isinstance(third, Answer)


def test_a_batch_that_fails_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def work(frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        calls.append(len(frames))
        if len(calls) == 1:
            raise ZeroDivisionError("a bug")
        return [Answer(one.sequence, 1, 1, ((0, 1.0),)) for one in frames]

    async def main() -> None:
        batcher = Batcher(work)
        results = await asyncio.gather(batcher.answer(frame(0)), batcher.answer(frame(1)), return_exceptions=True)
        assert all(isinstance(result, ZeroDivisionError) for result in results)
        assert (await batcher.answer(frame(2))).sequence == 2
        await batcher.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "a batch of 2 frames failed" in caplog.text


def test_a_batch_with_an_answer_missing_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        batcher = Batcher(lambda frames: [Answer(1, 1, 1, ((0, 1.0),))])
        answers = [batcher.answer(frame(1)), batcher.answer(frame(2))]
        results = await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 5)
        assert [type(result) for result in results] == [AssertionError, AssertionError]
        assert (await batcher.answer(frame(1))).sequence == 1
        await batcher.close()

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(main())


def test_a_full_line_refuses_at_once_and_recovers(work: Work) -> None:
    async def main() -> None:
        batcher = Batcher(work, max_batch=1, max_waiting=2)
        work.go.clear()
        tasks = [asyncio.create_task(batcher.answer(frame(0)))]
        await until_busy(work)
        tasks += [asyncio.create_task(batcher.answer(frame(number))) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="busy: 2 photos are waiting") as busy:
            await batcher.answer(frame(3))
        assert busy.value.retry_after_s == 1  # nothing is known yet
        work.go.set()
        assert len(await asyncio.gather(*tasks)) == 3
        assert (await batcher.answer(frame(4))).sequence == 4
        await batcher.close()

    asyncio.run(main())


def test_nothing_is_computed_for_who_is_gone(work: Work) -> None:
    async def main() -> None:
        batcher = Batcher(work)
        work.go.clear()
        first = asyncio.create_task(batcher.answer(frame(0)))
        await until_busy(work)
        gone, stays = (asyncio.create_task(batcher.answer(frame(number))) for number in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()  # is being computed already
        await asyncio.sleep(0)
        work.go.set()
        assert (await stays).sequence == 2
        await batcher.close()

    asyncio.run(main())
    assert work.batches == [[0], [2]]


def test_close_refuses_what_waits_and_finishes_what_is_at_work(work: Work) -> None:
    async def main() -> None:
        batcher = Batcher(work, max_batch=1)
        work.go.clear()
        tasks = [asyncio.create_task(batcher.answer(frame(number))) for number in range(3)]
        await until_busy(work)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        work.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
        assert isinstance(results[0], Answer)
        assert all(isinstance(result, BusyError) for result in results[1:])

    asyncio.run(main())


def test_drain_waits_for_everything_that_was_taken(work: Work) -> None:
    async def main() -> None:
        batcher = Batcher(work, max_batch=1)
        work.go.clear()
        tasks = [asyncio.create_task(batcher.answer(frame(number))) for number in range(3)]
        await until_busy(work)
        draining = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        work.go.set()
        await draining
        assert [(await task).sequence for task in tasks] == [0, 1, 2]
        await batcher.drain()  # nothing there
        await batcher.close()

    asyncio.run(main())


def test_who_is_refused_is_told_how_long_the_line_takes() -> None:
    def work(frames: Sequence[Frame]) -> list[Answer | BottleNetError]:
        time.sleep(0.02 * len(frames))
        return [Answer(one.sequence, 1, 1, ((0, 1.0),)) for one in frames]

    async def main() -> None:
        batcher = Batcher(work, max_batch=2, max_waiting=20)
        await batcher.answer(frame(0))
        tasks = [asyncio.create_task(batcher.answer(frame(number))) for number in range(20)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as busy:
            await batcher.answer(frame(20))
        # 20 frames, 20 ms each or a little more; a busy machine may take longer.
        assert 0.4 <= busy.value.retry_after_s < 10
        await asyncio.gather(*tasks)
        assert batcher.retry_after_s == 0.05  # an empty line, but not at once
        await batcher.close()

    asyncio.run(main())


def test_it_tells_how_long_each_frame_of_a_batch_has_waited(work: Work) -> None:
    waited: list[Sequence[float]] = []

    async def main() -> None:
        batcher = Batcher(work, max_batch=2, on_batch=waited.append)
        work.go.clear()
        tasks = [asyncio.create_task(batcher.answer(frame(0)))]
        await until_busy(work)
        tasks += [asyncio.create_task(batcher.answer(frame(number))) for number in (1, 2, 3)]
        await asyncio.sleep(0.05)
        work.go.set()
        await asyncio.gather(*tasks)
        await batcher.close()

    asyncio.run(main())
    assert [len(batch) for batch in waited] == [1, 2, 1]
    assert all(seconds >= 0.05 for batch in waited[1:] for seconds in batch)


def test_one_event_loop_after_another(work: Work) -> None:
    batcher = Batcher(work)

    async def main(sequence: int) -> None:
        assert (await batcher.answer(frame(sequence))).sequence == sequence

    asyncio.run(main(1))
    asyncio.run(main(2))  # without close in between, as when a test runs an app without its lifespan
    asyncio.run(batcher.close())


@pytest.mark.parametrize("limits", [{"max_batch": 0}, {"max_waiting": 0}])
def test_limits(work: Work, limits: dict[str, int]) -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        Batcher(work, **limits)


def test_work_without_end_is_given_up(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottlenet.cloud.batcher.CLOSE_S", 0.05)

    async def main() -> list[object]:
        batcher = Batcher(work, max_batch=1)
        work.go.clear()
        tasks = [asyncio.create_task(batcher.answer(frame(number))) for number in range(2)]
        await until_busy(work)
        await batcher.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        work.go.set()
        return results

    assert [type(result) for result in asyncio.run(main())] == [BusyError, BusyError]


def test_work_without_end_does_not_keep_the_process() -> None:
    """It ends without waiting for its thread."""
    code = """if True:
        import asyncio, time
        from bottlenet.cloud import Batcher
        from bottlenet.cloud import batcher as module
        from bottlenet.wire.frame import Frame
        module.CLOSE_S = 0.1
        async def main():
            batcher = Batcher(lambda frames: time.sleep(10**6))
            task = asyncio.create_task(batcher.answer(Frame(0, 0, b"tag", 0, b"")))
            await asyncio.sleep(0.1)
            await batcher.close()
            print(await asyncio.gather(task, return_exceptions=True))
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert "BusyError" in done.stdout
