"""Frames on one connection, several in flight, each answer matched to its frame.

    frame -> send -> in flight, by sequence number -> receive -> Reply

Sequence numbers are given here, a new one for each time that a frame is sent: an answer that comes twice, or after its
frame was sent again, can't be taken for another frame's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter

from bottlenet.edge.transport import Transport
from bottlenet.errors import BusyError, FrameError, LinkError, WireError
from bottlenet.wire.answer import Answer, parse_answer
from bottlenet.wire.frame import Frame

SEQUENCES = 2**16
SHORTEST_ANSWER_BYTES = 3  # up to the sequence number


@dataclass(frozen=True)
class Reply:
    """What came back for one frame."""

    number: int  # what `send` gave
    outcome: Answer | FrameError | BusyError  # answered, refused, or not now
    round_trip_ms: float  # until it was asked for here
    frame_bytes: int  # as one message
    sent_bytes: int  # on the socket since the last `send`, for the first one opening the connection too
    received_bytes: int  # on the socket since the last `receive`


@dataclass(frozen=True)
class Sent:
    """A frame in flight."""

    at_s: float
    frame_bytes: int
    sent_bytes: int


class Stream:
    """One connection at a time, opened when it is needed. For one thread.

    When it fails, what was in flight is lost to it: the caller has the frames and sends them again.
    """

    def __init__(self, connect: Callable[[], Transport]) -> None:
        self._connect = connect
        self._transport: Transport | None = None
        self._next = 0  # sequence number
        self._in_flight: dict[int, Sent] = {}  # in the order of sending
        self._sent_here = 0  # frames, on this connection
        self._before = (0, 0)  # bytes sent and received on earlier connections
        self._told = (0, 0)  # of all bytes sent and received, those that a Reply has told about

    @property
    def in_flight(self) -> int:
        """Frames that were sent and not answered."""
        return len(self._in_flight)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that can be used."""
        return self._transport is not None and not self._transport.closed

    @property
    def total_bytes(self) -> tuple[int, int]:
        """Bytes sent and received on the sockets of all connections so far."""
        transport = self._transport
        sent, received = (0, 0) if transport is None else (transport.sent_bytes, transport.received_bytes)
        return self._before[0] + sent, self._before[1] + received

    def open(self) -> Transport:
        """Connect, where it isn't. LinkError or FrameError: it can't."""
        if self._transport is not None and self._transport.closed and not self._in_flight:
            self.close()  # the server went away between two frames
        if self._transport is None:
            self._transport = self._connect()
            self._sent_here = 0
        return self._transport

    def send(self, frame: Frame) -> int:
        """Send a frame; gives the number that its Reply will have. LinkError or FrameError: all in flight is lost."""
        if not self._in_flight:
            self._told = self.total_bytes  # what went over the socket since is nobody's
        transport = self.open()
        number, self._next = self._next, (self._next + 1) % SEQUENCES
        message = dataclasses.replace(frame, sequence=number).to_stream_bytes()
        try:
            transport.send(message)
        except BaseException:
            self.close()  # half of it may be on the way
            raise
        self._sent_here += 1
        sent_bytes = self.total_bytes[0] - self._told[0]
        self._told = (self.total_bytes[0], self._told[1])
        self._in_flight[number] = Sent(perf_counter(), len(message), sent_bytes)
        return number

    def receive(self, timeout_s: float) -> Reply:
        """The next answer, in whatever order they come; answers that come twice are left out.

        LinkError: closed, none in time, or one was overtaken and is overdue. FrameError: closed because of what was
        sent. WireError: an answer that makes no sense. With any of them, all that is in flight is lost.
        """
        try:
            return self._receive(timeout_s)
        except BaseException:
            self.close()  # an answer that comes late must not be taken for another frame's
            raise

    def close(self) -> None:
        """End the connection; what is in flight is forgotten. The next frame opens another."""
        self._before = self.total_bytes
        transport, self._transport = self._transport, None
        self._in_flight.clear()
        if transport is not None:
            transport.close()

    def _receive(self, timeout_s: float) -> Reply:
        transport = self._transport
        assert transport is not None, "nothing was sent"
        deadline, left_s = monotonic() + timeout_s, timeout_s
        while True:
            data = transport.receive(left_s)
            number = int.from_bytes(data[1:SHORTEST_ANSWER_BYTES], "big")
            outcome = answer_or_refusal(data)
            sent = self._in_flight.pop(number, None)
            if sent is not None:
                break
            if not self._was_sent(number):
                raise WireError(f"the server answered frame {number}, which was not sent; try again")
            left_s = deadline - monotonic()
            if left_s <= 0:
                raise LinkError(f"nothing but answers that had come before, for {timeout_s:g} s; try again")
        self._check_overtaken(sent, timeout_s)
        received_bytes = self.total_bytes[1] - self._told[1]
        self._told = (self._told[0], self.total_bytes[1])
        round_trip_ms = (perf_counter() - sent.at_s) * 1e3
        return Reply(number, outcome, round_trip_ms, sent.frame_bytes, sent.sent_bytes, received_bytes)

    def _was_sent(self, number: int) -> bool:
        """Whether a frame of this connection had the number."""
        return (self._next - 1 - number) % SEQUENCES < self._sent_here

    def _check_overtaken(self, sent: Sent, timeout_s: float) -> None:
        """As long as others are answered nobody waits in vain, so a frame that was left out must be looked for."""
        oldest = next(iter(self._in_flight.values()), sent)
        if oldest.at_s < sent.at_s and perf_counter() - oldest.at_s > timeout_s:
            raise LinkError(f"later frames were answered, but one was not within {timeout_s:g} s; try again")


def answer_or_refusal(data: bytes) -> Answer | FrameError | BusyError:
    """An answer, or a refusal as what `parse_answer` raises for it. WireError: neither."""
    try:
        return parse_answer(data)
    except (FrameError, BusyError) as refusal:
        return refusal
