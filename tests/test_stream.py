"""Several frames in flight on one connection: which answer is whose, and what a lost connection takes along."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from bottlenet.bundle import Bundle
from bottlenet.cloud import Decoder, create_app
from bottlenet.edge import Edge, Encoder, Prediction
from bottlenet.edge.client import LocalTail
from bottlenet.edge.connection import Reply, Stream
from bottlenet.errors import BusyError, FrameError, InputError, LinkError, PhotoError, WireError
from bottlenet.wire.answer import Answer, busy_bytes, refusal_bytes
from bottlenet.wire.frame import Frame, parse_stream_frame
from conftest import CLASSES, Server

Reorder = Callable[[list[bytes]], list[bytes]]
TAG = b"tag"


def class_of(payload: bytes) -> int:
    """What the transport below answers: something that depends on every byte."""
    return zlib.crc32(payload) % CLASSES


def answer_to(message: bytes) -> bytes:
    frame = parse_stream_frame(message, bundle_tag=TAG)
    return Answer(frame.sequence, 1, 1, ((class_of(frame.payload), 0.5),)).to_bytes()


class Queued:
    """Answers what it was sent once it is asked for an answer, as `replies` says."""

    def __init__(self, replies: Reorder = lambda messages: [answer_to(message) for message in messages]) -> None:
        self.replies = replies
        self.sent_bytes = 50
        self.received_bytes = 70
        self.closed = False
        self.most = 0
        self._sent: list[bytes] = []
        self._ready: list[bytes] = []

    def send(self, message: bytes) -> None:
        if self.closed:
            raise LinkError("closed")
        self._sent.append(message)
        self.most = max(self.most, len(self._sent) + len(self._ready))
        self.sent_bytes += len(message)

    def receive(self, timeout_s: float) -> bytes:
        self._ready += self.replies(self._sent)
        self._sent = []
        if not self._ready:
            raise LinkError("no answer in time")
        reply = self._ready.pop(0)
        self.received_bytes += len(reply)
        return reply

    def close(self) -> None:
        self.closed = True


def frame(number: int) -> Frame:
    return Frame(0, 0, TAG, 0, bytes([number % 256, number // 256]) * (1 + number % 5))


def stream_of(*transports: Queued) -> Stream:
    left = list(transports)
    return Stream(lambda: left.pop(0))


def chosen(reply: Reply) -> int:
    assert isinstance(reply.outcome, Answer)
    return reply.outcome.top[0][0]


@given(st.data())
def test_each_answer_goes_to_its_frame_however_they_come(data: st.DataObject) -> None:
    """In any order, and some of them several times."""

    def replies(messages: list[bytes]) -> list[bytes]:
        answers = [answer_to(message) for message in messages]
        repeated = answers + data.draw(st.lists(st.sampled_from(answers), max_size=3)) if answers else []
        return data.draw(st.permutations(repeated))

    stream = stream_of(Queued(replies))
    stream._next = data.draw(st.sampled_from([0, 65530]))
    expected: dict[int, int] = {}
    count = 0
    for _ in range(data.draw(st.integers(1, 4))):
        for _ in range(data.draw(st.integers(1, 4))):
            expected[stream.send(frame(count))] = class_of(frame(count).payload)
            count += 1
        for _ in range(data.draw(st.integers(1, stream.in_flight))):
            reply = stream.receive(1)
            assert chosen(reply) == expected.pop(reply.number)
    while stream.in_flight:
        reply = stream.receive(1)
        assert chosen(reply) == expected.pop(reply.number)
    assert not expected


def test_bytes_are_counted_once() -> None:
    stream = stream_of(Queued())
    for number in range(5):
        stream.send(frame(number))
    replies = [stream.receive(1) for _ in range(5)]
    assert sum(reply.sent_bytes for reply in replies) == stream.total_bytes[0]
    assert sum(reply.received_bytes for reply in replies) == stream.total_bytes[1]
    assert replies[0].sent_bytes == 50 + replies[0].frame_bytes
    assert replies[3].sent_bytes == replies[3].frame_bytes == 4 + len(frame(3).payload)


def test_an_opening_of_its_own_is_nobodys() -> None:
    stream = stream_of(Queued())
    stream.open()
    stream.send(frame(0))
    assert stream.receive(1).sent_bytes == 4 + len(frame(0).payload)


def test_sending_is_part_of_the_round_trip() -> None:
    class Slow(Queued):
        def send(self, message: bytes) -> None:
            time.sleep(0.03)
            super().send(message)

    def connect() -> Slow:
        time.sleep(0.5)  # and opening is not
        return Slow()

    stream = Stream(connect)
    assert 30 <= stream.ask(frame(0), 1).round_trip_ms < 500


def test_refusals_are_for_one_frame() -> None:
    def replies(messages: list[bytes]) -> list[bytes]:
        if not messages:
            return []
        first, _, third = (int.from_bytes(message[2:4], "big") for message in messages)
        return [busy_bytes(third, 1.5, "full"), refusal_bytes(first, "too green"), answer_to(messages[1])]

    stream = stream_of(Queued(replies))
    numbers = [stream.send(frame(number)) for number in range(3)]
    busy, refused, answered = (stream.receive(1) for _ in range(3))
    assert (busy.number, refused.number, answered.number) == (numbers[2], numbers[0], numbers[1])
    assert isinstance(busy.outcome, BusyError)
    assert busy.outcome.retry_after_s == 1.5
    assert isinstance(refused.outcome, FrameError)
    assert stream.is_open


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Answer(9, 1, 1, ((1, 0.5),)).to_bytes(), WireError),  # was not sent yet
        (Answer(65535, 1, 1, ((1, 0.5),)).to_bytes(), WireError),  # nor before
        (b"\x10", WireError),
        (b"nonsense", WireError),
    ],
)
def test_nonsense_ends_the_connection_and_all_that_is_in_flight(reply: bytes, kind: type[Exception]) -> None:
    first = Queued(lambda messages: [reply] if messages else [])
    stream = stream_of(first, Queued())
    stream.send(frame(0))
    stream.send(frame(1))
    with pytest.raises(kind):
        stream.receive(1)
    assert first.closed
    assert stream.in_flight == 0
    number = stream.send(frame(2))  # another connection
    assert stream.receive(1).number == number


def test_an_answer_from_an_earlier_connection_is_not_taken() -> None:
    late: list[bytes] = []

    def keep(messages: list[bytes]) -> list[bytes]:
        late.extend(answer_to(message) for message in messages)
        return []

    stream = stream_of(Queued(keep), Queued(lambda messages: late if messages else []))
    stream.send(frame(0))
    with pytest.raises(LinkError, match="in time"):
        stream.receive(1)
    stream.send(frame(1))
    with pytest.raises(WireError, match="was not sent"):
        stream.receive(1)


def test_repeated_answers_without_end_are_not_waited_for() -> None:
    stream = stream_of(Queued(lambda messages: [answer_to(m) for m in messages[:1]] * 1_000_000))
    stream.send(frame(0))
    stream.receive(1)
    stream.send(frame(1))
    with pytest.raises(LinkError, match="had come before"):
        stream.receive(0.01)


def test_a_frame_that_is_overtaken_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others keep the connection lively, so there is never silence that would end it."""
    now = [100.0]
    monkeypatch.setattr("bottlenet.edge.connection.perf_counter", lambda: now[0])
    stream = stream_of(Queued(lambda messages: [answer_to(m) for m in messages if m[4:6] != b"\0\0"]))
    stream.send(frame(0))
    for number in range(1, 5):
        now[0] += 1
        stream.send(frame(number))
        stream.receive(5)
    now[0] += 2
    stream.send(frame(5))
    with pytest.raises(LinkError, match="later frames were answered, but one was not within 5 s"):
        stream.receive(5)
    assert stream.in_flight == 0


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(12)]


class TestClassifyMany:
    def scrambled(self, messages: list[bytes]) -> list[bytes]:
        return [answer_to(message) for message in reversed(messages)] * 2

    def classes(self, bundle: Bundle, photos: list[np.ndarray]) -> list[int]:
        encoder = Encoder(bundle)
        return [class_of(encoder.encode(photo).frame.payload) for photo in photos]

    @pytest.mark.parametrize("in_flight", [1, 3, 8, 100])
    def test_in_order(self, bundle: Bundle, photos: list[np.ndarray], in_flight: int) -> None:
        transport = Queued(self.scrambled)
        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: transport)
        predictions = list(edge.classify_many(photos, in_flight))
        assert [prediction.class_index for prediction in predictions] == self.classes(bundle, photos)
        assert transport.most <= 2 * in_flight
        assert sum(prediction.socket_bytes for prediction in predictions) == transport.sent_bytes

    def test_no_photo_is_taken_before_there_is_room(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        taken = []

        def source() -> object:
            for number, photo in enumerate(photos):
                taken.append(number)
                yield photo

        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: Queued())
        many = edge.classify_many(source(), 3)  # type: ignore[arg-type]
        assert taken == []
        next(many)
        assert len(taken) == 3
        next(many)
        assert len(taken) == 4

    def test_the_connection_is_given_back(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        transports: list[Queued] = []

        def connect(url: str, timeout_s: float) -> Queued:
            transports.append(Queued())
            return transports[-1]

        edge = Edge(bundle, "ws://x", connect=connect)
        edge.classify(photos[0])
        assert len(list(edge.classify_many(photos[:3]))) == 3
        edge.classify(photos[0])
        assert len(transports) == 1
        many = edge.classify_many(photos)
        next(many)
        many.close()  # with seven in flight
        assert transports[0].closed
        edge.classify(photos[0])
        assert len(transports) == 2
        many = edge.classify_many(photos[:2])
        next(many)
        edge.close()
        assert len(list(many)) == 1
        assert all(transport.closed for transport in transports)

    def test_what_comes_before_a_bad_photo_is_answered(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: Queued())
        done: list[Prediction] = []
        many = edge.classify_many([*photos[:3], b"no photo", *photos[3:]])
        with pytest.raises(PhotoError):
            done.extend(iter(lambda: next(many), None))
        assert [prediction.class_index for prediction in done] == self.classes(bundle, photos[:3])

    def test_a_refusal_ends_it(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        def replies(messages: list[bytes]) -> list[bytes]:
            return [busy_bytes(int.from_bytes(message[2:4], "big"), 2, "full") for message in messages]

        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: Queued(replies))
        with pytest.raises(BusyError, match="full"):
            next(edge.classify_many(photos))

    @pytest.mark.parametrize("in_flight", [0, -1, 1025])
    def test_limits(self, bundle: Bundle, in_flight: int) -> None:
        with pytest.raises(InputError, match="give 1 to 1024"):
            Edge(bundle, "ws://x").classify_many([], in_flight)

    def test_a_real_server(
        self, bundle: Bundle, photos: list[np.ndarray], serve: Callable[[Starlette], Server]
    ) -> None:
        with Edge(bundle, serve(create_app([bundle])).url) as edge:
            alone = [edge.classify(photo).top for photo in photos]
            assert [prediction.top for prediction in edge.classify_many(photos, 5)] == alone


class TestFallback:
    def test_the_local_tail_gives_the_servers_answer(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        encoder, decoder, local = Encoder(bundle), Decoder(bundle), LocalTail(bundle)
        for number, photo in enumerate(photos):
            frame = encoder.encode(photo, number).frame
            (remote,) = decoder.answers([frame])
            assert isinstance(remote, Answer)
            here = local.answer(frame)
            assert here.sequence == number
            assert here.top == tuple((index, round(share * 65535) / 65535) for index, share in remote.top)

    def test_classify(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        now = [0.0]
        tries: list[float] = []

        def connect(url: str, timeout_s: float) -> Queued:
            tries.append(now[0])
            if now[0] < 100:
                raise LinkError("nobody there")
            return Queued()

        edge = Edge(bundle, "ws://x", connect=connect, fallback="local")
        edge._backoff.clock = lambda: now[0]
        first = edge.classify(photos[0])
        assert (first.answered_by, first.times.round_trip_ms, first.socket_bytes) == ("local", 0, 0)
        assert first.times.tail_ms >= 0
        assert first.payload_bytes > 0
        edge.classify(photos[1])
        assert tries == [0.0]  # left alone for a while
        now[0] = 101.0
        last = edge.classify(photos[0])
        assert last.answered_by == "server"
        assert last.class_index == class_of(Encoder(bundle).encode(photos[0]).frame.payload)

    def test_when_the_server_is_busy_or_refuses(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        for refuse in (lambda number: busy_bytes(number, 9, "full"), lambda number: refusal_bytes(number, "no")):

            def replies(messages: list[bytes], refuse: Callable[[int], bytes] = refuse) -> list[bytes]:
                return [refuse(int.from_bytes(message[2:4], "big")) for message in messages]

            transport = Queued(replies)
            edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s, it=transport: it, fallback="local")
            prediction = edge.classify(photos[0])
            assert prediction.answered_by == "local"
            assert prediction.socket_bytes == transport.sent_bytes  # trying was not for nothing
            assert prediction.received_bytes == transport.received_bytes

    def test_only_local(self, bundle: Bundle) -> None:
        with pytest.raises(InputError, match="fallback is 'cloud'; give 'local'"):
            Edge(bundle, "ws://x", fallback="cloud")


class TestToken:
    def test_it_is_handed_to_the_transport(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        given: list[object] = []

        def connect(url: str, timeout_s: float, *, token: object) -> Queued:
            given.append(token)
            return Queued()

        Edge(bundle, "ws://x", connect=connect, token="a-token-of-one's-own").classify(photos[0])
        assert given == ["a-token-of-one's-own"]

    def test_from_a_file_or_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from bottlenet.edge.client import find_token

        monkeypatch.delenv("BOTTLENET_TOKEN", raising=False)
        assert find_token(None) is None
        file = tmp_path / "token"
        file.write_text("  first-token-0123456789\n")
        token = find_token(str(file))
        assert token is not None
        assert token() == "first-token-0123456789"
        file.write_text("other-token-0123456789")
        assert token() == "other-token-0123456789"  # read again for each connection
        monkeypatch.setenv("BOTTLENET_TOKEN", "third-token-0123456789")
        token = find_token(None)
        assert token is not None
        assert token() == "third-token-0123456789"

    @pytest.mark.parametrize("content", ["", "short", "two tokens-0123456789", "with\nline-break-01234567", "é" * 20])
    def test_none_and_its_content_is_not_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
    ) -> None:
        from bottlenet.edge.client import find_token

        file = tmp_path / "file"
        file.write_text(content)
        with pytest.raises(InputError, match="holds no token") as error:
            find_token(str(file))
        assert not content or content not in str(error.value)
        with pytest.raises(InputError, match="can't read the token"):
            find_token(str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def make_encoder(make_bundle: Callable[..., Bundle]) -> Callable[..., Encoder]:
    settings_of = {"raw": 0, "deflate": 9, "jpeg": 90, "webp": 90}
    bundles = {codec: make_bundle(codec=codec, setting=setting) for codec, setting in settings_of.items()}
    return lambda codec, budget: Encoder(bundles[codec], budget_bytes=budget)


class TestBudget:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(13, 400), st.sampled_from(["raw", "deflate", "jpeg", "webp"]), st.integers(0, 2**32 - 1))
    def test_no_frame_is_larger(self, make_encoder: Callable[..., Encoder], budget: int, codec: str, seed: int) -> None:
        photo = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        try:
            encoded = make_encoder(codec, budget).encode(photo)
        except InputError as error:
            assert f"no frame fits {budget} bytes" in str(error)
            return
        assert len(encoded.frame.to_bytes()) <= budget

    def test_as_fine_as_it_may_be(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        free = Encoder(bundle).encode(photos[0]).frame
        assert Encoder(bundle, budget_bytes=340).encode(photos[0]).frame == free
        tight = Encoder(bundle, budget_bytes=len(free.to_bytes()) - 1).encode(photos[0]).frame
        assert tight.setting < free.setting
        assert len(tight.payload) < len(free.payload)
        decoded = Decoder(bundle).answers([tight])
        assert isinstance(decoded[0], Answer)  # a server needs to be told nothing
        assert LocalTail(bundle).answer(tight).top[0][0] == decoded[0].top[0][0]

    def test_an_error_and_not_a_larger_frame(self, bundle: Bundle, photos: list[np.ndarray]) -> None:
        transport = Queued()
        edge = Edge(bundle, "ws://x", connect=lambda url, timeout_s: transport, budget_bytes=14)
        with pytest.raises(InputError, match="no frame fits 14 bytes, 12 of them its header: .* smallest payload"):
            edge.classify(photos[0])
        with pytest.raises(InputError, match="no frame fits 14 bytes"):
            edge.encode(photos[0])
        assert transport.most == 0

    @pytest.mark.parametrize("budget_bytes", [-1, 0, 12])
    def test_no_room_at_all(self, bundle: Bundle, budget_bytes: int) -> None:
        with pytest.raises(InputError, match="has no room beside the frame's header of 12; give 13 or more"):
            Edge(bundle, "ws://x", budget_bytes=budget_bytes)
