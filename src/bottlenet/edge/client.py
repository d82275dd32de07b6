"""The public face of the device: `Edge`, a photo to its label with the server's help.

    photo -> Encoder -> frame -> Stream -> network -> Stream -> Answer -> Prediction
               |          `----> LocalTail, where it may help out ----> Answer
               `-> Answer, where the device is sure [-> report -> Stream]
      `----> Auto, where the partition may change -------------------------^

A photo costs one message there and one back, on a connection that stays open. `edge.sender` is the same for photos
that must not be lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from bottlenet.bundle import Bundle
from bottlenet.bundle.ladder import OneOrMore, load_all
from bottlenet.edge.auto import AUTO, Auto, check_auto
from bottlenet.edge.changes import BOUND, SILENCE_S, Changes
from bottlenet.edge.connection import Backoff, Connect, Reply, Stream, check_url, hint_s, open_websocket
from bottlenet.edge.encoder import Encoder, Processed, split
from bottlenet.edge.pilot import Move, Policy
from bottlenet.edge.prediction import DEVICE, LOCAL, SERVER, Prediction, predict
from bottlenet.errors import BundleError, InputError, LinkError, MissingExtraError, WireError
from bottlenet.files import Secret
from bottlenet.photo import Source
from bottlenet.plan.profile import Profile
from bottlenet.records import is_number
from bottlenet.runtime import open_tail, run_graph
from bottlenet.task import answer_of
from bottlenet.wire import mqtt
from bottlenet.wire.answer import NO_NUMBERS, Answer, microseconds, parse_answer
from bottlenet.wire.frame import BEARER, STREAM_PATH, Frame

if TYPE_CHECKING:
    from bottlenet.edge.camera import Seen

log = logging.getLogger(__name__)

Window: TypeAlias = "deque[tuple[int | None, Processed] | InputError]"
"""Photos by the number of their reply, None where nothing was sent; or why one could not be encoded."""

NOT_REPORTED = "an answer of this device is not reported: %s"
MAX_IN_FLIGHT = 1024
VARIABLE = "BOTTLENET_TOKEN"


class Edge:
    """The device's end of a split network.

        with Edge("my.bundle", "ws://server:8000") as edge:
            prediction = edge.classify("photo.jpg")

    The connection opens at the first photo, or with `connect()`, and stays; a lost one is opened again at the next
    photo. Several threads may share an Edge: their photos are encoded side by side and sent one after the other. With
    mqtt:// or mqtts://, an address of a broker, the servers are those that it passes frames on to.

    `connect` opens the transport, see `edge.connection`. `timeout_s` is for opening, and for the answer to each photo.
    `budget_bytes`, `sure`, `report_answers` and `audit`: see `Encoder`; `classify` logs reports that the server does
    not take, and a `Sender` loses none. `fallback="local"`: where the server can't answer, the bundle's tail runs here,
    and the server is left alone for a while. `token` is the bearer token, or the password of the user in a
    broker's address, or a function that gives it at each connection; `tls` replaces the system's certificates.

    With `partition="auto"` it moves between edge-only, the cuts of the bundles, one or more of one network, and
    cloud-only, as link, load and device are just now: see `edge.auto`. That takes what `bottlenet profile` measured,
    a `profile` of all of them or one of each, and `policy` says how readily. Every photo is answered then.

        with Edge("my.ladder", "ws://server:8000", partition="auto", profile=profile) as edge:
            print(edge.classify("photo.jpg").partition, edge.moves)

    InputError: a URL that is not ws://, wss:// or a broker's, a password without a user, a timeout that isn't positive,
    another fallback, several bundles or a profile without "auto", a fallback or budget with it; see also `Encoder` and
    `edge.auto.Auto`. BundleError: see `Bundle.load`. MissingExtraError: a broker's address, without bottlenet[mqtt].
    """

    def __init__(
        self,
        bundle: OneOrMore,
        url: str,
        *,
        connect: Connect | None = None,
        timeout_s: float = 10.0,
        budget_bytes: int | None = None,
        sure: float | None = None,
        report_answers: bool = False,
        audit: float = 0.0,
        fallback: str | None = None,
        token: str | Callable[[], str] | None = None,
        tls: ssl.SSLContext | None = None,
        partition: str | None = None,
        profile: Profile | Sequence[Profile] | None = None,
        policy: Policy | None = None,
    ) -> None:
        if not is_number(timeout_s) or not 0 < timeout_s < 1e6:
            raise InputError(f"timeout_s is {timeout_s!r}; give seconds, above 0 and below 1,000,000")
        if token is not None and not isinstance(token, str) and not callable(token):
            raise InputError(f"the token is given as {type(token).__name__}; give text, or a function that returns it")
        if fallback not in (None, LOCAL):
            raise InputError(f"fallback is {fallback!r}; give {LOCAL!r}, or leave it out")
        bundles = load_all(bundle)
        self._address = check_url(url, secret=token is not None)
        options = {name: value for name, value in (("token", token), ("tls", tls)) if value is not None}
        self._connect: Connect = partial(connect or opener_of(url), **options)
        self.bundle = bundles[0]
        self.url = self._url_of(self.bundle)
        self.timeout_s = timeout_s
        self._auto: Auto | None = None
        if partition is not None:
            check_auto(partition, budget_bytes, fallback, sure, report_answers or audit)
            self._auto = Auto(bundles, profile or (), self._stream_for, policy)
            self.encoder = self._auto.encoder
        elif len(bundles) > 1 or profile is not None or policy is not None:
            raise InputError(f"several bundles, a profile or a policy are for partition={AUTO!r}; give that, too")
        else:
            self.encoder = Encoder(
                self.bundle, budget_bytes=budget_bytes, sure=sure, report_answers=report_answers, audit=audit
            )
        self.local = LocalTail(self.bundle) if fallback == LOCAL else None
        self._lock = threading.Lock()
        self._stream = self.new_stream()
        self._closings = 0
        self._backoff = Backoff()

    @property
    def is_auto(self) -> bool:
        return self._auto is not None

    @property
    def moves(self) -> tuple[Move, ...]:
        """From one partition to another, and why; the last 1,000. None without `partition="auto"`."""
        return self._auto.moves if self._auto else ()

    @property
    def partition(self) -> str:
        """What the next photo would use, by its name: "split at blocks.8"."""
        return self._auto.partition if self._auto else split(self.bundle).name

    def classify(self, photo: Source) -> Prediction:
        """Find out what the photo shows.

        PhotoError: see `bottlenet.photo.read_photo`. InputError: it does not fit the budget, or no token can be read.
        LinkError: the server is not there, too slow or full. FrameError: it refuses. WireError: its answer makes no
        sense. All but the first and the budget only without a fallback, and not with `partition="auto"`.
        """
        if self._auto is not None:
            return self._auto.classify(photo)
        processed = self.encoder.work(photo)
        frame = processed.result
        if not isinstance(frame, Frame):
            return self._report(processed, frame)
        with self._lock:
            before = self._stream.total_bytes
            if self.local is None or self._backoff.wait_s == 0:
                try:
                    prediction = self._predict(processed, self._stream, self._stream.ask(frame, self.timeout_s))
                    self._backoff.worked()
                    return prediction
                except (LinkError, WireError, InputError) as error:  # InputError: the token's file is being replaced
                    if self.local is None:
                        raise
                    self._backoff.failed(hint_s(error))
            sent, received = self._stream.total_bytes
        tried = sent - before[0], received - before[1]  # trying the server took them
        answer = self.local.answer(frame)
        return predict(self.bundle, answer, processed, tried, answered_by=LOCAL, partition=self.partition)

    def classify_many(self, photos: Iterable[Source], in_flight: int = 8) -> Iterator[Prediction]:
        """Classify photos in their order, with up to `in_flight` on the way at once: for links that are long.

        Photos are taken as there is room. The first error of `classify` ends it, and there is no fallback: see
        `edge.sender.Sender` for photos that must not be lost. Meanwhile `classify` in another thread opens a second
        connection. With `partition="auto"` one photo is on the way at a time. InputError: `in_flight` not 1 to 1,024.
        """
        check_in_flight(in_flight)
        return self._classify_many(photos, in_flight) if self._auto is None else map(self._auto.classify, photos)

    def watch(
        self,
        source: str | os.PathLike[str],
        *,
        when: str | float = "changed",
        bound: float = BOUND,
        silence_s: float = SILENCE_S,
        name: str | None = None,
        key_frames: bool = False,
        tls: ssl.SSLContext | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Iterator[Seen]:
        """Classify what a camera shows, without end, or to the end of a video file.

        `when` is "changed" (a frame a second is compared, with `bound` and `silence_s` as for `Changes`), "always", or
        the seconds between two frames. The other arguments, and the errors, are those of `edge.camera.Camera`. What
        goes wrong later is told, and the next frame is taken.

            for seen in edge.watch("rtsp://camera/stream"):
                print(seen.shot.at, seen.prediction.label)
        """
        from bottlenet.edge.camera import CHANGED, Camera, pace_of, watch

        options: dict[str, Any] = {"every_s": pace_of(when), "name": name, "key_frames": key_frames, "tls": tls}
        changes = Changes(self.encoder.symbols, bound=bound, silence_s=silence_s) if when == CHANGED else None
        with contextlib.closing(Camera(source, timeout_s=self.timeout_s, tell=tell, **options)) as camera:
            yield from watch(self.classify, camera, changes, tell)

    def encode(self, photo: Source) -> bytes:
        """Make a frame to be sent in another way, as by POST to /v1/classify. Errors as for `Encoder.encode`."""
        return self.encoder.encode(photo).frame.to_bytes()

    def connect(self) -> None:
        """Open the connection now; with "auto" find out what is best, too. Errors as for `classify`."""
        if self._auto is not None:
            self._auto.connect()
            return
        with self._lock:
            self._stream.open()

    def close(self) -> None:
        """Close the connection. A later photo opens another."""
        if self._auto is not None:
            self._auto.close()
        with self._lock:
            self._closings += 1
            self._stream.close()

    def __enter__(self) -> Edge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def new_stream(self) -> Stream:
        """Make a connection of one's own to the same server, not open yet."""
        return Stream(lambda: self._connect(self.url, self.timeout_s))

    def _stream_for(self, bundle: Bundle, opening_s: Callable[[], float]) -> Stream:
        return Stream(lambda: self._connect(self._url_of(bundle), opening_s()))

    def _url_of(self, bundle: Bundle) -> str:
        address = self._address
        path = "" if address.scheme in mqtt.PORTS else address.path.rstrip("/") + STREAM_PATH
        query = f"{address.query}&bundle={bundle.id.hex()}".lstrip("&")
        return address._replace(path=path, query=query, fragment="").geturl()

    def _report(self, processed: Processed, answer: Answer) -> Prediction:
        """Return the device's own answer, after the server was told of it, where it is to be and can be."""
        done = partial(predict, self.bundle, answer, processed, answered_by=DEVICE, partition=self.partition)
        if processed.report is None:
            return done()
        with self._lock:
            if self._backoff.wait_s > 0:
                return done()
            before = self._stream.total_bytes
            try:
                reply = self._stream.ask(processed.report, self.timeout_s)
                self._backoff.worked()
                return done((reply.sent_bytes, reply.received_bytes), round_trip_ms=reply.round_trip_ms)
            except (LinkError, WireError, InputError) as error:  # InputError: the token's file is being replaced
                self._backoff.failed(hint_s(error))
                log.warning(NOT_REPORTED, error)
            sent, received = self._stream.total_bytes
            return done((sent - before[0], received - before[1]))

    def _predict(self, processed: Processed, stream: Stream, reply: Reply) -> Prediction:
        """FrameError, BusyError: it was refused, in order: the connection is as good as before."""
        own = processed.result if isinstance(processed.result, Answer) else None
        answer = own or reply.answer
        if own is not None and not isinstance(reply.outcome, Answer):
            log.warning(NOT_REPORTED, reply.outcome)
        try:
            return predict(
                *(self.bundle, answer, processed, (reply.sent_bytes, reply.received_bytes)),
                answered_by=SERVER if own is None else DEVICE,
                partition=self.partition,
                round_trip_ms=reply.round_trip_ms,
            )
        except WireError:
            stream.close()
            raise

    def _classify_many(self, photos: Iterable[Source], in_flight: int) -> Iterator[Prediction]:
        with self._lock:
            stream, self._stream = self._stream, self.new_stream()
            closings = self._closings
        window: Window = deque()  # photos that were taken and not given out, in order
        replies: dict[int, Reply] = {}
        source = iter(photos)
        try:
            while True:
                self._fill(window, islice(source, in_flight - len(window)), stream)
                if not window:
                    return
                first = window.popleft()
                if isinstance(first, InputError):
                    raise first  # after those before it got their answers
                number, processed = first
                if number is None:
                    assert isinstance(processed.result, Answer)
                    own = processed.result
                    yield predict(self.bundle, own, processed, answered_by=DEVICE, partition=self.partition)
                    continue
                while number not in replies:
                    reply = stream.receive(self.timeout_s)
                    replies[reply.number] = reply
                yield self._predict(processed, stream, replies.pop(number))
        finally:
            with self._lock:
                if stream.in_flight or self._closings != closings or self._stream.is_open:
                    stream.close()
                else:
                    self._stream = stream

    def _fill(self, window: Window, photos: Iterable[Source], stream: Stream) -> None:
        """Encode and send, up to the first that can't be encoded."""
        if window and isinstance(window[-1], InputError):
            return
        for photo in photos:
            try:
                processed = self.encoder.work(photo)
            except InputError as error:
                window.append(error)
                return
            sent = None if processed.frame is None else stream.send(processed.frame)
            window.append((sent, processed))


def check_in_flight(in_flight: int) -> int:
    """Return the number of frames that may be on the way at once. InputError: below 1 or above 1,024."""
    if not 1 <= in_flight <= MAX_IN_FLIGHT:
        raise InputError(f"in_flight is {in_flight}; give 1 to {MAX_IN_FLIGHT}")
    return in_flight


class LocalTail:
    """The tail on the device, for when the server can't answer, from the frame on. Safe to use from several threads.

    BundleError: tail.onnx can't be loaded or run, or does not have the shapes that the manifest says.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._tail = open_tail(bundle, threads)

    def answer(self, frame: Frame) -> Answer:
        """Answer as a server. FrameError, PayloadError: it does not decode. BundleError: scores are no numbers."""
        started = perf_counter_ns()
        symbols = self.bundle.codec_of(frame.codec, frame.setting).decode(frame.payload)
        decoded = perf_counter_ns()
        scores = run_graph(self._tail, symbols=symbols[None])
        done = perf_counter_ns()
        (found,) = self.bundle.manifest.task.results(scores)
        if found is None:
            raise BundleError(NO_NUMBERS)
        answer = answer_of(frame.sequence, microseconds(decoded - started), microseconds(done - decoded), found)
        return parse_answer(answer.to_bytes())  # rounded as on the wire, so that nothing differs


def find_token(path: str | None, kind: Secret = BEARER) -> Callable[[], str] | None:
    """Return what gives the token: the file `path`, read at each connection, else BOTTLENET_TOKEN, else None.

    InputError: no such file, or no token in it; the message does not show it.
    """
    if path is not None:
        kind.read(path)  # a wrong path shows now, not at the first photo
        return lambda: kind.read(path)
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    return lambda: kind.check(value, f"the environment variable {VARIABLE}")


def opener_of(url: str) -> Connect:
    """Return what opens a connection to an address. MissingExtraError: a broker's, without bottlenet[mqtt]."""
    scheme = urlsplit(url).scheme
    if scheme not in mqtt.PORTS:
        return open_websocket
    try:
        from bottlenet.edge.mqtt import open_mqtt
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "paho":
            raise
        raise MissingExtraError(f"{scheme}://", "mqtt") from error
    return open_mqtt
