"""A server and a network for `Sender`, without either: what they do is scripted, and their clock is the test's.
And photos to send."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from bottlenet.errors import LinkError
from bottlenet.wire.answer import Answer
from bottlenet.wire.frame import Frame, parse_stream_frame
from conftest import CLASSES

TAG = b"tag"
Reaction = Callable[[Frame], "list[bytes] | Exception"]


def class_of(payload: bytes) -> int:
    """Depends on every byte, so that another frame's answer shows."""
    return zlib.crc32(payload) % CLASSES


def answered(frame: Frame) -> list[bytes]:
    """As a server would."""
    return [Answer(frame.sequence, 1, 1, ((class_of(frame.payload), 0.5),)).to_bytes()]


@dataclass
class Network:
    """`react` gives, for each frame that is sent, the messages that come back, or how the connection ends."""

    react: Reaction = answered
    now: float = 1000.0
    up: Callable[[float], bool] = lambda now: True
    opened: list[float] = field(default_factory=list)  # when
    frames: list[Frame] = field(default_factory=list)  # all that were sent
    slept: list[float] = field(default_factory=list)
    most_in_flight: int = 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds

    def connect(self, url: str, timeout_s: float) -> Connection:
        self.opened.append(self.now)
        if not self.up(self.now):
            raise LinkError("can't connect")
        return Connection(self)


class Connection:
    """A transport. What comes in while it is closed is lost."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.sent_bytes = self.received_bytes = 0
        self.closed = False
        self.replies: list[bytes] = []
        self.error: Exception | None = None
        self.unanswered = 0

    def send(self, message: bytes) -> None:
        if self.closed:
            raise LinkError("closed")
        frame = parse_stream_frame(message, bundle_tag=TAG)
        self.network.frames.append(frame)
        self.sent_bytes += len(message)
        self.unanswered += 1
        self.network.most_in_flight = max(self.network.most_in_flight, self.unanswered)
        reaction = self.network.react(frame)
        if isinstance(reaction, Exception):
            self.error = self.error or reaction
        elif self.error is None:
            self.replies += reaction

    def receive(self, timeout_s: float) -> bytes:
        if self.replies:
            self.unanswered -= 1
            return self.replies.pop(0)
        if self.error is not None:
            self.closed = True
            raise self.error
        self.network.now += timeout_s
        raise LinkError("no answer in time")

    def close(self) -> None:
        self.closed = True


def numbers_from(*values: float) -> Callable[[], float]:
    """A `random.random` that isn't: these, again and again."""

    def each() -> Iterator[float]:
        while True:
            yield from values

    numbers = each()
    return lambda: next(numbers)


def make_album(folder: Path, count: int) -> Path:
    """Photos of noise, each another."""
    rng = np.random.default_rng(5)
    for number in range(count):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png", compress_level=1)
    return folder
