"""What a user holds on the device: `Edge`, a photo to its label with the server's help.

    photo -> Encoder -> frame -> Transport -> network -> Transport -> Answer -> Prediction

A photo costs one message there and one back, on a connection that stays open.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType

from bottlenet.bundle import Bundle
from bottlenet.edge.encoder import Encoded, Encoder
from bottlenet.edge.photo import Source
from bottlenet.edge.transport import Connect, Transport, check_url, open_websocket
from bottlenet.errors import FrameError, InputError, WireError
from bottlenet.wire.answer import Answer, parse_answer
from bottlenet.wire.protocol import STREAM_PATH

TOP = 5


@dataclass(frozen=True)
class Choice:
    """One class that the photo may be."""

    label: str
    class_index: int
    score: float  # probability, 0..1


@dataclass(frozen=True)
class Times:
    """Where the time of one photo went, ms. The last two are the server's and part of the round trip."""

    prepare_ms: float  # read, decode, crop, resize
    head_ms: float
    encode_ms: float  # symbols to payload
    round_trip_ms: float  # from sending to the answer; opening the connection is not in it
    decode_ms: float  # payload to symbols
    tail_ms: float


@dataclass(frozen=True)
class Prediction:
    """What the photo shows, and what it took to know."""

    label: str
    class_index: int
    score: float  # probability, 0..1
    top: tuple[Choice, ...] = field(repr=False)  # best first, at most 5
    payload_bytes: int  # the compressed symbols
    frame_bytes: int  # with the header, as one message
    socket_bytes: int  # everything given to the socket for this photo; for the first one, opening the connection too
    received_bytes: int  # everything that came back on the socket
    times: Times


class Edge:
    """The device's end of a split network.

        with Edge("my.bundle", "ws://server:8000") as edge:
            prediction = edge.classify("photo.jpg")

    The connection opens at the first photo, or with `connect()`, and stays; a lost one is opened again at the next
    photo. Several threads may share an Edge: their photos are encoded side by side and sent one after the other.

    `connect` opens the transport: `(url, timeout_s) -> Transport`, see `edge.transport`. `timeout_s` is for opening,
    and for the answer to each photo.

    InputError: a URL that is not ws:// or wss://, a timeout that isn't positive. BundleError: see `Bundle.load`.
    """

    def __init__(
        self, bundle: str | Path | Bundle, url: str, *, connect: Connect = open_websocket, timeout_s: float = 10.0
    ) -> None:
        if not 0 < timeout_s < 1e6:
            raise InputError(f"timeout_s is {timeout_s}; give seconds, above 0 and below 1,000,000")
        parts = check_url(url)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        path = parts.path.rstrip("/") + STREAM_PATH
        query = f"{parts.query}&bundle={self.bundle.id.hex()}".lstrip("&")
        self.url = parts._replace(path=path, query=query, fragment="").geturl()
        self._encoder = Encoder(self.bundle)
        self._open = connect
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._numbers = itertools.count()

    def classify(self, photo: Source) -> Prediction:
        """What the photo shows.

        PhotoError: the photo can't be used, see `edge.photo.read_photo`. LinkError: the server is not there, closed
        or did not answer in time. FrameError: it refuses, with its reason. WireError: its answer makes no sense.
        """
        encoded = self._encoder.encode(photo, next(self._numbers) % 2**16)
        with self._lock:
            return self._classify(encoded)

    def encode(self, photo: Source) -> bytes:
        """The photo as a self-contained frame, for a transport of one's own: POST it to /v1/classify, for example."""
        return self._encoder.encode(photo).frame.to_bytes()

    def connect(self) -> None:
        """Open the connection now, so that the first photo doesn't wait for it. Errors as for `classify`."""
        with self._lock:
            self._connected()

    def close(self) -> None:
        """Close the connection. A later photo opens another."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Edge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _classify(self, encoded: Encoded) -> Prediction:
        frame = encoded.frame
        message = frame.to_stream_bytes()
        before = self._counters()
        transport = self._connected()
        started = perf_counter()
        try:
            transport.send(message)
            reply = transport.receive(self._timeout_s)
            round_trip_ms = (perf_counter() - started) * 1e3
            answer = parse_answer(reply)
            if answer.sequence != frame.sequence:
                raise WireError(f"the server answered frame {answer.sequence}, not {frame.sequence}; try again")
            choices = self._choices(answer)
        except FrameError:
            raise  # refused, in order: the connection is as good as before
        except BaseException:
            self._drop()  # an answer that comes late must not be taken for the next photo's
            raise
        return Prediction(
            label=choices[0].label,
            class_index=choices[0].class_index,
            score=choices[0].score,
            top=choices[:TOP],
            payload_bytes=len(frame.payload),
            frame_bytes=len(message),
            socket_bytes=transport.sent_bytes - before[0],
            received_bytes=transport.received_bytes - before[1],
            times=Times(
                encoded.prepare_ms,
                encoded.head_ms,
                encoded.encode_ms,
                round_trip_ms,
                decode_ms=answer.decode_us / 1e3,
                tail_ms=answer.tail_us / 1e3,
            ),
        )

    def _choices(self, answer: Answer) -> tuple[Choice, ...]:
        labels = self.bundle.labels
        if not answer.top or max(index for index, _ in answer.top) >= len(labels):
            raise WireError(f"the server's answer does not fit the {len(labels)} classes of this bundle; try again")
        return tuple(Choice(labels[index], index, score) for index, score in answer.top)

    def _counters(self) -> tuple[int, int]:
        """(sent, received) bytes of a connection that will be used again; a new one starts from 0."""
        transport = self._transport
        return (0, 0) if transport is None or transport.closed else (transport.sent_bytes, transport.received_bytes)

    def _connected(self) -> Transport:
        if self._transport is not None and self._transport.closed:
            self._drop()  # the server went away between two photos
        if self._transport is None:
            self._transport = self._open(self.url, self._timeout_s)
        return self._transport

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
